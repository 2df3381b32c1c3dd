"""What pydantic found wrong with a document, in words for whoever wrote it. Never shows a value: it may be a secret."""

from dataclasses import dataclass

from pydantic import ValidationError


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field that does not fit, and why."""

    path: tuple[str, ...]
    """Names and list positions from the document's top; empty where the document as a whole does not fit."""
    what: str

    def text(self, *, whole: str = "document") -> str:
        """Return ``a.b.0: what is wrong``; *whole* stands for an empty path."""
        return f"{'.'.join(self.path) or whole}: {self.what}"


def field_problems(error: ValidationError) -> tuple[FieldProblem, ...]:
    """Return every problem in the order in which pydantic found it; at least one."""
    return tuple(
        FieldProblem(
            tuple(map(str, each["loc"])),
            "unknown key" if each["type"] == "extra_forbidden" else each["msg"].removeprefix("Value error, "),
        )
        for each in error.errors(include_url=False, include_input=False, include_context=False)
    )

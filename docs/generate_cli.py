"""
Write docs/cli.md from cli.md.in and the commands themselves: ``python docs/generate_cli.py``.

``tests/test_docs.py`` fails while the committed page differs from what this writes.
"""  # noqa: INP001 - a script beside the page it writes

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from typer.models import ArgumentInfo

from agent.cli.exit_codes import Exit
from agent.cli.main import cli
from agent.cli.options import ConsulOptions

PAGE = Path(__file__).with_name("cli.md")
HEAD = Path(__file__).with_name("cli.md.in")
KINDS = {int: "NUMBER", Path: "PATH", str: "TEXT"}


@dataclass(frozen=True, slots=True)
class Option:
    """An option or an argument of a command."""

    names: tuple[str, ...]
    """Empty for an argument."""
    value: str
    """What is written after it; empty for a flag."""
    meaning: str
    default: object
    """``inspect.Parameter.empty`` where it must be given."""


def page() -> str:
    """Return the whole page."""
    commands = {info.name or "": info.callback for info in cli.registered_commands if info.callback}
    parts = [
        "<!-- Written by docs/generate_cli.py: change the commands or cli.md.in, not this page. -->",
        HEAD.read_text(encoding="utf-8").rstrip("\n"),
        "\n".join(["## Exit codes", "", *_exit_codes()]),
        "\n".join(["## Options for the app and for Consul", "", *_table(_options_of(ConsulOptions))]),
        *("\n".join(_command(name, callback)) for name, callback in commands.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _exit_codes() -> Iterator[str]:
    (definition,) = ast.parse(inspect.getsource(Exit)).body
    assert isinstance(definition, ast.ClassDef)
    yield "| code | meaning |"
    yield "|---|---|"
    for assigned, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(assigned, ast.Assign) and isinstance(text, ast.Expr):
            yield f"| {ast.literal_eval(assigned.value)} | {_text(ast.literal_eval(text.value))} |"


def _command(name: str, callback: Callable[..., Any]) -> Iterator[str]:
    options = _options_of(callback)
    arguments = [each.value if _must(each) else f"[{each.value}]" for each in options if not each.names]
    yield f"## `{' '.join(['tidegate', name, '[options]', *arguments])}`"
    yield ""
    yield _text(inspect.getdoc(callback) or "")
    shared = {each.names for each in _options_of(ConsulOptions)}
    asks_consul = shared <= {each.names for each in options}
    own = [each for each in options if not (asks_consul and each.names in shared)]
    if own:
        yield ""
        yield from _table(own)
    if asks_consul:
        yield ""
        yield "It also takes the [options for the app and for Consul](#options-for-the-app-and-for-consul)."


def _options_of(callback: Callable[..., Any]) -> list[Option]:
    return [_option(each) for each in inspect.signature(callback, eval_str=True).parameters.values()]


def _option(parameter: inspect.Parameter) -> Option:
    kind, info = get_args(parameter.annotation)[:2]
    kinds = [part for part in get_args(kind) or (kind,) if part is not NoneType]
    names = () if isinstance(info, ArgumentInfo) else (str(info.default), *(info.param_decls or ()))
    word = parameter.name.upper() if not names else KINDS.get(kinds[0], "")
    if isinstance(kinds[0], type) and issubclass(kinds[0], StrEnum):
        word = "|".join(kinds[0])
    value = (info.metavar or word).strip("[]")
    return Option(names, "" if kinds[0] is bool else value, info.help or "", parameter.default)


def _must(option: Option) -> bool:
    return option.default is inspect.Parameter.empty


def _table(options: list[Option]) -> Iterator[str]:
    yield "| option | meaning |"
    yield "|---|---|"
    for each in options:
        value = f" {each.value}" if each.value else ""
        names = ", ".join(f"`{name}{value}`" for name in each.names) or f"`{each.value}`"
        is_shown = not _must(each) and each.default not in (None, False, "")
        default = f" Default: `{each.default}`." if is_shown else ""
        must = " Must be given." if _must(each) and each.names else ""
        yield f"| {names} | {each.meaning}{default}{must} |".replace("``", "`").replace(each.value, _cell(each.value))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _text(text: str) -> str:
    return text.replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")

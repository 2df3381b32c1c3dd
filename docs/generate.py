"""
Write docs/configuration.md from configuration.md.in and the settings models: ``python docs/generate.py``.

The meaning of a key is the string under its field; ``tests/test_docs.py`` fails while the committed page
differs from what this writes, and where a field has no such string.
"""  # noqa: INP001 - a script beside the pages it writes

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from agent.config import (
    PREFIX,
    ApiSettings,
    ConsulSettings,
    DockerSettings,
    Ec2Settings,
    HaproxySettings,
    Settings,
)
from agent.core.model.app import App, DeployTimings
from agent.core.model.durations import format_duration, parse_duration
from agent.core.model.spec import LogOptions, Probe, RunSpec

PAGE = Path(__file__).with_name("configuration.md")
HEAD = Path(__file__).with_name("configuration.md.in")


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the page, and of the TOML file."""

    table: str
    model: type[BaseModel]
    note: str = ""
    in_environment: bool = False


SECTIONS = (
    Section("", Settings, "Keys before the first table.", in_environment=True),
    Section("[consul]", ConsulSettings, in_environment=True),
    Section("[docker]", DockerSettings, in_environment=True),
    Section("[haproxy]", HaproxySettings, in_environment=True),
    Section("[api]", ApiSettings, in_environment=True),
    Section("[ec2]", Ec2Settings, in_environment=True),
    Section("[[apps]]", App),
    Section("[apps.knobs]", DeployTimings, "Times and counts of a deploy."),
    Section("[apps.default_spec]", RunSpec, "The run spec of a release that is set by hand."),
    Section("[apps.default_spec.probe]", Probe),
    Section("[apps.default_spec.log]", LogOptions),
)


def page() -> str:
    """Return the whole page."""
    head = HEAD.read_text(encoding="utf-8").rstrip("\n")
    return (
        "\n\n".join(
            [
                "<!-- Written by docs/generate.py: change the models or configuration.md.in, not this page. -->",
                head,
                *_sections(),
            ]
        )
        + "\n"
    )


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the string under each field of *model*, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            value = ast.literal_eval(text.value)
            found[field.target.id] = " ".join(value.split()).replace("``", "`")
    return found


def _sections() -> Iterator[str]:
    for section in SECTIONS:
        title = f"## `{section.table}`" if section.table else "## Top level"
        intro = section.note or (inspect.getdoc(section.model) or "").split("\n\n")[0]
        yield "\n".join([title, "", intro, "", *_table(section)])


def _table(section: Section) -> Iterator[str]:
    variable = "| environment " if section.in_environment else ""
    yield f"| key | type | default {variable}| meaning |"
    yield f"|---|---|---{'|---' if section.in_environment else ''}|---|"
    texts = meanings(section.model)
    for name, field in section.model.model_fields.items():
        cells = [f"`{name}`", _kind(field.annotation, field.metadata), _default(name, field)]
        if section.in_environment:
            cells.append(f"`{_variable(section.table, name)}`")
        cells.append(texts[name])
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _variable(table: str, name: str) -> str:
    return f"{PREFIX}{'__'.join(part.upper() for part in (table.strip('[]'), name) if part)}"


def _default(name: str, field: FieldInfo) -> str:
    if name == "node":
        return "the host's name"
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return _written(value, is_duration=_is_duration(field.annotation, field.metadata))


def _written(value: object, *, is_duration: bool) -> str:
    match value:
        case None:
            return "none"
        case BaseModel():
            return "its own defaults"
        case SecretStr():
            return "none"
        case ():
            return "`[]`"
        case dict() if not value:
            return "`{}`"
        case dict():
            return f"`{{ {', '.join(f'{key} = {json.dumps(item)}' for key, item in value.items())} }}`"
        case float() if is_duration:
            return f'`"{format_duration(value)}"`'
        case bool() | int() | float():
            return f"`{json.dumps(value)}`"
        case _:
            return f'`"{value}"`'


def _is_duration(annotation: Any, metadata: Iterable[Any]) -> bool:
    if any(isinstance(item, BeforeValidator) and item.func is parse_duration for item in metadata):
        return True
    return any(
        get_origin(part) is Annotated and _is_duration(part, get_args(part)[1:]) for part in get_args(annotation)
    )


def _kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Say what may be written, in words."""
    metadata = tuple(_flat(metadata))
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0], (*metadata, *parts[1:]))
    if origin in (Union, UnionType):
        return " or ".join(_kind(part, metadata) for part in parts if part is not NoneType)
    if origin is Literal:
        return "one of " + ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return f"list of {_kind(parts[0])}"
    if origin is dict:
        return f"table of {_kind(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    word = "duration" if _is_duration(annotation, metadata) else _WORDS.get(annotation, "text")
    return word + _limits(metadata, is_duration=word == "duration")


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "number",
    float: "number",
    Path: "path",
    SecretStr: "text, secret",
}
_WORDS |= {IPv4Address: "IPv4 address", IPv4Network: "IPv4 network"}


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else (item,)


def _limits(metadata: Iterable[Any], *, is_duration: bool) -> str:
    words = []
    for attribute, sign in (("gt", "above"), ("ge", "at least"), ("le", "at most")):
        for item in metadata:
            limit = getattr(item, attribute, None)
            if limit is not None and not (attribute == "ge" and limit == 0):
                words.append(f"{sign} {format_duration(limit) if is_duration else limit}")
    return f", {', '.join(words)}" if words else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")

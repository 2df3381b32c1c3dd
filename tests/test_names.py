"""
Names that were replaced do not come back: classes, functions, parameters, fields, modules and log events.

Each idea has one name in code, logs and docs; ``tests/replaced_names.py`` has the table.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.replaced_names import ALLOWED, EVENTS, MODULES, REPLACED, SCOPED

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "replaced_names.py"
FOLDERS = ("agent", "bench", "cluster", "docs", "infra", "tests")


class Finding(NamedTuple):
    """A replaced name and where it is defined."""

    path: str
    line: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.old} is now {self.new}"


def defined_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of each class, function, parameter and field."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name, body=body):
                yield node.lineno, name
                for item in body:
                    match item:
                        case ast.AnnAssign(target=ast.Name(id=field)) | ast.Assign(targets=[ast.Name(id=field)]):
                            yield item.lineno, field
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield node.lineno, name


def allows(entry: tuple[str, str], path: str, name: str) -> bool:
    """Whether an entry of `ALLOWED` is about *name* at *path*."""
    return entry[1] == name and fnmatchcase(path, entry[0])


def findings(path: str, source: str) -> Iterator[Finding]:
    """Yield the replaced names that *source* at *path* defines, and the replaced log events it holds."""
    names = dict(REPLACED)
    for folder, scoped in SCOPED.items():
        names |= scoped if path.startswith(f"{folder}/") else {}
    tree = ast.parse(source, path)
    if Path(path).stem in MODULES:
        yield Finding(path, 1, Path(path).name, "another module")
    for line, name in defined_in(tree):
        if name in names and not any(allows(entry, path, name) for entry in ALLOWED):
            yield Finding(path, line, name, names[name])
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in EVENTS:
            yield Finding(path, node.lineno, str(node.value), EVENTS[str(node.value)])


def sources() -> Iterator[Path]:
    """Yield the Python files of the repository, but this one and the table: they hold the names."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file not in {Path(__file__).resolve(), TABLE}:
                yield file


def test_no_replaced_name_is_defined() -> None:
    """Files and lines of all of them are shown."""
    found = [
        str(finding)
        for file in sources()
        for finding in findings(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_no_page_names_a_replaced_event(page: Path) -> None:
    """As operators search for them in their logs."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    found = [f"{page.name}:{number}: {old}" for number, line in lines for old in EVENTS if old in line]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("entry", ALLOWED, ids=":".join)
def test_each_exception_is_in_use(entry: tuple[str, str]) -> None:
    """An entry of `ALLOWED` that excuses nothing is removed."""
    named = [file for file in sources() if fnmatchcase(file.relative_to(ROOT).as_posix(), entry[0])]
    assert entry[1] in {name for file in named for _, name in defined_in(ast.parse(file.read_text(encoding="utf-8")))}


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("agent/new.py", "class Draft: ...", "agent/new.py:1: Draft is now PlanBuilder"),
        ("agent/new.py", "async def tidy() -> None: ...", "agent/new.py:1: tidy is now collect_garbage"),
        ("tests/new.py", "\ndef test(*, shelf: int) -> None: ...", "tests/new.py:2: shelf is now test_images"),
        ("agent/new.py", "class Slot:\n    tenancy: int = 0", "agent/new.py:2: tenancy is now occupancy"),
        ("agent/new.py", "def f(self):\n    self.tenant = 1", "agent/new.py:2: tenant is now occupant"),
        ("agent/core/host/new.py", "def leave() -> None: ...", "agent/core/host/new.py:1: leave is now drain"),
        ("agent/new.py", "log.error('tick.broke')", "agent/new.py:1: tick.broke is now tick.crashed"),
        ("agent/cli/exits.py", "", "agent/cli/exits.py:1: exits.py is now another module"),
    ],
)
def test_a_replaced_name_is_found(path: str, source: str, found: str) -> None:
    """A class, a function, a parameter, two kinds of field, a scoped name, an event and a module."""
    assert [str(finding) for finding in findings(path, source)] == [found]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("agent/cli/commands/host.py", "def leave() -> None: ..."),
        ("agent/new.py", "draft = shelf.tenant  # Draft"),
        ("agent/new.py", "log.info('tick.completed')"),
    ],
)
def test_other_uses_are_not_found(path: str, source: str) -> None:
    """A name outside its scope, names that are only used, and a log event that was not renamed."""
    assert list(findings(path, source)) == []

"""The house: no circle of imports, no hall with too many doors, and walls that can fail."""

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("agent", "infra", "cluster", "bench")
MODULES_MAX = 16
"""Doors of one hall (`docs/architecture.md`)."""


def modules() -> dict[str, Path]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(text: str, known: Mapping[str, object]) -> set[str]:
    """Return what runs when *text* does, imports inside functions included; those for type checkers alone are none."""
    tree = ast.parse(text)
    for_types = {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for part in ast.walk(node)
    }
    return {name for node in ast.walk(tree) if node not in for_types for name in _names(node, known)}


def _names(node: ast.AST, known: Mapping[str, object]) -> Iterator[str]:
    match node:
        case ast.ImportFrom(module=str(module), names=names):
            for alias in names:
                whole = f"{module}.{alias.name}"
                yield from ({whole} if whole in known else {module} & known.keys())
        case ast.Import(names=names):
            yield from {alias.name for alias in names} & known.keys()


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    graph = {name: imported(path.read_text("utf-8"), known) - {name} for name, path in known.items()}
    assert circle_in(graph) == []


def test_a_circle_would_be_seen() -> None:
    known = {"agent.a": 0, "agent.b": 0}
    lazy = "def f():\n    from agent.b import x\n"
    assert circle_in({"agent.a": imported(lazy, known), "agent.b": imported("import agent.a\n", known)})
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from agent.b import x\n"
    assert imported(typed, known) == set()


@pytest.mark.parametrize("package", ["agent", "infra"])
def test_no_folder_holds_more_than_sixteen_modules(package: str) -> None:
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    doors = {folder: [path for path in folder.glob("*.py") if path.name != "__init__.py"] for folder in folders}
    assert {str(folder): len(found) for folder, found in doors.items() if len(found) > MODULES_MAX} == {}


BREACHES = {
    "imports point one way": ("agent/core/model/names.py", "import agent.config"),
    "core.model imports nothing of ours": ("agent/core/model/names.py", "import agent.core.host.plan"),
    "core.host and core.rollout do not know each other": ("agent/core/host/plan.py", "import agent.core.rollout.lock"),
    "the core does no I/O": ("agent/core/host/plan.py", "import asyncio"),
    "adapters do not know each other": ("agent/adapters/haproxy/parse.py", "import agent.adapters.aws.sigv4"),
    "the host's loops and the fleet's do not know each other": (
        "agent/runtime/host/executor.py",
        "import agent.runtime.fleet.leader",
    ),
    "the command line starts no loop": ("agent/cli/exit_codes.py", "import agent.runtime.wake"),
    "infra knows nothing of the agent": ("infra/errors.py", "import agent"),
    "of the agent, only an instance's boot knows infra": ("agent/provision/drain.py", "import infra.errors"),
    "the agent does without AWS's libraries": ("agent/adapters/aws/ec2.py", "import boto3"),
    "the local cluster is a user's feature": ("cluster/guide.py", "import bench"),
    "what is shipped does without cluster and benchmarks": ("agent/daemon.py", "import cluster.cluster"),
}
"""For each wall (the begin of its contract's name) an import that breaks it."""


def test_every_wall_has_a_breach() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    walls = [contract["name"] for contract in table["tool"]["importlinter"]["contracts"]]
    assert [wall for wall in walls if not any(wall.startswith(begin) for begin in BREACHES)] == []
    assert [begin for begin in BREACHES if not any(wall.startswith(begin) for wall in walls)] == []


@pytest.mark.slow
def test_each_wall_fails_when_it_is_breached(tmp_path: Path) -> None:
    """All breaches at once, in a copy: every contract is broken."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path, line in BREACHES.values():
        file = tmp_path / path
        file.write_text(f"{file.read_text('utf-8')}\n{line}\n", "utf-8")
    linter = Path(sys.executable).with_name("lint-imports")
    said = subprocess.run(
        [linter, "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    kept = [line for line in said.stdout.splitlines() if line.endswith("KEPT")]
    assert (kept, said.returncode) == ([], 1), said.stdout


def test_helpers_of_tests_live_in_helper_modules() -> None:
    """A test module that another one imports runs twice, and nobody looks for a helper there."""
    paths = [path for folder in ("tests", "bench", "cluster") for path in (ROOT / folder).rglob("*.py")]
    imports = {
        (path.name, module)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (module := node.module or "").rpartition(".")[2].startswith("test_")
    }
    assert imports == set()

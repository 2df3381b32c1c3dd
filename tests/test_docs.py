"""The documentation says what the code does: names, settings, events, metrics, examples, links."""

import ast
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from typer.main import get_command

from agent.cli.main import cli
from agent.cli.options import RolloutOptions
from agent.config import load
from agent.core.model.durations import parse_duration
from agent.core.model.errors import FatalError
from agent.core.rollout.strategy import Strategy

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
_EVENT = re.compile(r"[a-z_]+\.[a-z_]+")
_FENCE = re.compile(r"^( *)```toml\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True, name="no_settings_in_the_environment")
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TIDEGATE_"):
            monkeypatch.delenv(name)


def test_the_configuration_page_is_what_the_models_say() -> None:
    """Run ``python docs/generate.py`` after a change of the settings."""
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == _generator().page()


def test_the_command_line_page_is_what_the_commands_say() -> None:
    """Run ``python docs/generate_cli.py`` after a change of a command or an option."""
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == _generator("generate_cli").page()


def test_the_knobs_of_deploy_are_those_of_a_rollout_with_their_defaults() -> None:
    """Each one an option, and its help says the default that the record will hold."""
    told = {}
    for name, option in inspect.signature(RolloutOptions, eval_str=True).parameters.items():
        text = get_args(option.annotation)[1].help
        if (found := re.search(r"\(default: (?:from the settings, or )?([^)]*)\)", text)) and name != "spec":
            told[name] = found[1]
    defaults = {name: field.default for name, field in Strategy.model_fields.items()}
    assert told.keys() == defaults.keys() - {"steps", "waits_for_promote"}
    for name, text in told.items():
        default = defaults[name]
        assert default == (parse_duration(text) if isinstance(default, float) else type(default)(text)), name


def test_every_setting_has_a_meaning() -> None:
    """A sentence under each field, of one line."""
    generator = _generator()
    for section in generator.SECTIONS:
        texts = generator.meanings(section.model)
        missing = [name for name in section.model.model_fields if not texts.get(name, "").endswith(".")]
        assert not missing, f"{section.model.__name__}: no sentence under {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_toml_example_is_a_valid_settings_file(page: Path, tmp_path: Path) -> None:
    """Each one whole, as an operator would copy it."""
    for number, text in enumerate(_toml_examples(page)):
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        assert load(file).app.name


def test_the_environment_wins_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/configuration.md says of a key, of a table, and of the list of apps."""
    file = tmp_path / "tidegate.toml"
    file.write_text('node = "web-1"\n[consul]\ntoken_file = "/a"\n[[apps]]\nname = "shop"\n', encoding="utf-8")
    monkeypatch.setenv("TIDEGATE_NODE", "web-2")
    monkeypatch.setenv("TIDEGATE_CONSUL__ADDRESS", "http://127.0.0.1:8501")
    settings = load(file)
    assert (settings.node, settings.consul.address) == ("web-2", "http://127.0.0.1:8501")
    assert settings.consul.token_file == Path("/a")
    monkeypatch.setenv("TIDEGATE_APPS", '[{"name": "till"}]')
    assert load(file).app.name == "till"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[[apps]]\nname = "shop"\nprot = 80\n', "apps.0.prot: unknown key"),
        ('[[apps]]\nname = "shop"\n[apps.knobs]\nvisit_idle = "soon"\n', "apps.0.knobs.visit_idle: "),
        ('[consul]\nadress = "x"\n[[apps]]\nname = "shop"\n', "consul.adress: unknown key"),
        ('[[apps]]\nname = "shop-status"\n', "apps.0.name: "),
        ("", "apps: "),
        ("apps =", "is no TOML"),
    ],
)
def test_what_is_wrong_with_the_settings_is_named(text: str, named: str, tmp_path: Path) -> None:
    """File and key, never a traceback."""
    file = tmp_path / "tidegate.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(FatalError) as caught:
        load(file)
    assert named in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_variable_that_names_no_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error in a unit file does not go unnoticed."""
    file = tmp_path / "tidegate.toml"
    file.write_text('[[apps]]\nname = "shop"\n', encoding="utf-8")
    monkeypatch.setenv("TIDEGATE_NOED", "web-2")
    with pytest.raises(FatalError, match="TIDEGATE_NOED: there is no setting 'noed'"):
        load(file)


def test_log_events_are_those_of_the_code() -> None:
    """Names, levels and fields, in both directions."""
    documented = {
        row[0].strip("`"): (set(row[1].split(", ")), set(re.findall(r"`(\w+)`", row[2])))
        for row in _rows("log-events.md")
    }
    assert documented == _events_of_the_code()


def test_metrics_are_those_of_the_code() -> None:
    """Names in both directions; the text format itself is the code's."""
    source = (ROOT / "agent" / "http" / "metrics.py").read_text(encoding="utf-8")
    assert {row[0].strip("`") for row in _rows("metrics.md")} == set(re.findall(r'"(tidegate_\w+)"', source))


def test_every_command_is_in_the_readme() -> None:
    """And no other one."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `tidegate ([a-z-]+)` \|", readme, re.MULTILINE))
    assert named == set(get_command(cli).commands)  # type: ignore[attr-defined]


def test_tests_that_are_named_exist() -> None:
    """A row that names its proof has one."""
    there = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for page in PAGES:
        named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
        assert named <= there, f"{page.name}: {sorted(named - there)}"


def test_every_failure_mode_names_its_proof() -> None:
    """Each row in its last column."""
    lines = (ROOT / "docs" / "failure-modes.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    failures = [row for row in rows if row[0] not in ("what fails", "what happens")]
    assert len(failures) > 40
    assert [row[0] for row in failures if len(row) != 5 or "`test_" not in row[4]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links within the repository; others are not asked for here."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def _generator(name: str = "generate") -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _toml_examples(page: Path) -> Iterator[str]:
    for indent, body in _FENCE.findall(page.read_text(encoding="utf-8")):
        yield "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))


def _rows(page: str) -> list[list[str]]:
    """Return the cells of a page's table rows that begin with code."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]


def _events_of_the_code() -> dict[str, tuple[set[str], set[str]]]:
    found: dict[str, tuple[set[str], set[str]]] = {}
    for file in (ROOT / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (levels := _levels_of(node)):
                name = ast.literal_eval(node.args[0])
                before = found.get(name, (set(), set()))
                fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                found[name] = (before[0] | levels, before[1] | fields)
    return found


def _levels_of(call: ast.Call) -> set[str]:
    """Return the levels at which a call logs; empty for a call that does not log an event."""
    if not call.args or not isinstance(call.args[0], ast.Constant) or not isinstance(call.args[0].value, str):
        return set()
    match call.func:
        case ast.Attribute(value=ast.Name(id="log"), attr=level) if level in _LEVELS:
            return {"error" if level == "exception" else level}
        case ast.Name(id="event") if _EVENT.fullmatch(call.args[0].value):
            # `event = log.warning if ... else log.info`
            return {"info", "warning"}
        case _:
            return set()

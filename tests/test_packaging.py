"""What is installed is what was tested: the locks agree, are whole, and the version is one."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agent import __version__
from cluster.machine_images import SHIPPED

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
GROUPS = PYPROJECT["dependency-groups"]
ASKED = {
    "requirements.lock": PROJECT["dependencies"],
    "requirements-infra.lock": PROJECT["optional-dependencies"]["infra"],
    "requirements-build.lock": PYPROJECT["build-system"]["requires"],
    "requirements-dev.lock": [each for each in GROUPS["dev"] if isinstance(each, str)] + PROJECT["dependencies"],
}
_PIN = re.compile(r"^([\w.-]+)==(\S+)(?: ; (.*?))? \\\n((?:    --hash=.*\n)+)", re.MULTILINE)
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})(?: \\)?\n")


class Pin(NamedTuple):
    """One release of a package, where it is wanted, and the files that may be installed of it."""

    version: str
    marker: str | None
    hashes: tuple[str, ...]


@pytest.mark.parametrize("name", ASKED)
def test_a_lock_has_all_that_pyproject_asks_for(name: str) -> None:
    """In a version that pyproject.toml allows."""
    pins = _pins(name)
    for requirement in map(Requirement, ASKED[name]):
        found = pins.get(canonicalize_name(requirement.name), [])
        assert found, f"{name} lacks {requirement.name}: run `make lock`"
        assert all(requirement.specifier.contains(pin.version) for pin in found), f"{name}: {requirement}"


@pytest.mark.parametrize("name", ASKED)
def test_a_lock_is_whole(name: str) -> None:
    """It is installed without resolving anything, so what its packages need must be in it."""
    pins = _pins(name)
    missing = {need for need in _needs(ASKED[name]) if need not in pins}
    assert missing == set()


@pytest.mark.parametrize("name", ASKED.keys() - {"requirements-dev.lock"})
def test_the_locks_agree(name: str) -> None:
    """Hosts get the very files that the tests ran on."""
    tested = _pins("requirements-dev.lock")
    for package, pins in _pins(name).items():
        assert pins == tested.get(package), f"{package}: run `make lock`"


@pytest.mark.parametrize("name", ASKED)
def test_a_lock_has_nothing_but_pins_with_hashes(name: str) -> None:
    """No address of an index, and no line that pip would read as anything else."""
    rest = _PIN.sub("", _read(name))
    assert [line for line in rest.splitlines() if not line.strip().startswith("#")] == []
    assert all(pin.hashes for pins in _pins(name).values() for pin in pins)


@pytest.mark.parametrize("name", ASKED.keys() - {"requirements-dev.lock"})
def test_a_machine_gets_each_lock_that_its_provisioning_reads(name: str) -> None:
    """In the local cluster's machines and in the AMI."""
    assert name in SHIPPED
    assert name in _read("infra/image/provision.sh")
    assert f'"{name}"' in _read("infra/image/packer.pkr.hcl")


def test_groups_that_are_locked_alone_are_those_of_the_package() -> None:
    """uv locks a group by itself, but not an extra or a build's requirements."""
    assert GROUPS["infra"] == PROJECT["optional-dependencies"]["infra"]
    assert GROUPS["build"] == PYPROJECT["build-system"]["requires"]


def test_the_changelog_has_the_version_under_what_is_unreleased() -> None:
    """In the form of Keep a Changelog: a date, and an address for each heading."""
    text = _read("CHANGELOG.md")
    first, second = re.findall(r"^## \[(.+)", text, re.MULTILINE)[:2]
    assert first == "Unreleased]"
    assert re.fullmatch(re.escape(__version__) + r"\] - \d{4}-\d\d-\d\d", second)
    assert re.findall(r"^\[(.+)\]: https://", text, re.MULTILINE) == re.findall(r"^## \[(.+)\]", text, re.MULTILINE)


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _pins(name: str) -> dict[str, list[Pin]]:
    """Return each package's pins: more than one where they depend on Python's version."""
    found: dict[str, list[Pin]] = {}
    for package, version, marker, hashes in _PIN.findall(_read(name)):
        pin = Pin(version, marker or None, tuple(_HASH.findall(hashes)))
        found.setdefault(canonicalize_name(package), []).append(pin)
    return found


def _needs(asked: Iterable[str]) -> set[str]:
    """Return the names of all that *asked* needs here, by what the installed packages say of themselves."""
    todo = [Requirement(each) for each in asked]
    found: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in found:
            continue
        found.add(key)
        for need in map(Requirement, requires(requirement.name) or []):
            extras = requirement.extras | {""}
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(need)
    return {name for name, _ in found}

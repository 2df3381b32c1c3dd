"""The templates: rendered the same each time, as committed, quickly, and clean for cfn-lint in three regions."""

import difflib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.config import load
from infra.template.stack import build, render
from tests.infra.cases import CASES, ROOT

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = os.environ.get("UPDATE_SNAPSHOTS") == "1"


def assert_same(path: Path, text: str) -> None:
    """Compare with what is committed; UPDATE_SNAPSHOTS=1 writes it."""
    if UPDATE:
        path.write_text(text)
    before = path.read_text() if path.exists() else ""
    diff = difflib.unified_diff(before.splitlines(), text.splitlines(), str(path.name), "render", lineterm="")
    assert before == text, "\n".join(["UPDATE_SNAPSHOTS=1 accepts this:", *diff])


@pytest.mark.parametrize("case", CASES)
def test_rendered_as_in_the_snapshot(case: str) -> None:
    assert_same(SNAPSHOTS / f"{case}.json", render(CASES[case]))


def test_the_committed_template_is_that_of_dev() -> None:
    assert_same(ROOT / "final-project.json", render(load("dev")))


def test_the_order_of_hashes_changes_nothing() -> None:
    """Another process, with another seed of Python's hashes, renders the same text."""
    code = "from infra.config import load; from infra.template.stack import render; print(render(load('prod')), end='')"
    rendered = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert rendered[0] == rendered[1] == render(load("prod")).encode()


@pytest.mark.infra
def test_cfn_lint_finds_nothing_in_three_regions() -> None:
    """Slow to import, quick to run."""
    from cfnlint.api import ManualArgs, lint_file

    regions = ["us-east-1", "eu-west-1", "ap-southeast-2"]
    found = []
    for case in CASES:
        # Zones by name are what that case is for; they exist in one region only.
        named = case == "named-zones"
        where = ManualArgs(
            regions=regions[:1] if named else regions,
            include_checks=["I"],
            ignore_checks=["W3010"] if named else [],
        )
        found += [f"{case}: {each}" for each in lint_file(SNAPSHOTS / f"{case}.json", where)]
    assert found == []


@pytest.mark.infra
def test_cfn_lint_sees_a_mistake(tmp_path: Path) -> None:
    """Otherwise finding nothing would mean nothing."""
    from cfnlint.api import ManualArgs, lint_file

    made = build(CASES["dev"]).to_dict()
    made["Resources"]["PublicSubnet2"]["Properties"]["CidrBlock"] = "10.43.1.0/24"
    file = tmp_path / "overlap.json"
    file.write_text(json.dumps(made))
    assert any("E3060" in str(each) or "overlap" in str(each) for each in lint_file(file, ManualArgs()))

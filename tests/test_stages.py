"""The stages of `make test`: one after the other, or beside the others, and none that fails unseen."""

import subprocess
import sys

import pytest


def run(*stages: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.stages", "--budget-s", "60", *stages]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("stages", "status"),
    [
        (("a=true", "b=true"), 0),
        (("a=exit 3", "b=true"), 3),
        (("a&=true", "b=true"), 0),
        (("a&=exit 3", "b=true"), 3),
        (("a&=sleep 60", "b=exit 4"), 4),
    ],
)
def test_the_first_stage_that_fails_is_its_end(stages: tuple[str, ...], status: int) -> None:
    """Also one that runs beside the others, which is not waited for where another has failed."""
    assert run(*stages).returncode == status


def test_what_a_stage_beside_the_others_wrote_is_shown_at_the_end() -> None:
    """Not between the lines of the others."""
    assert run("a&=echo of a", "b=echo of b").stdout.splitlines()[:3] == ["of b", "a:", "of a"]

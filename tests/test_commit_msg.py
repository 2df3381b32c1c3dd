"""What the commit-msg hook refuses."""

import subprocess
from pathlib import Path

import pytest

HOOK = Path(__file__).resolve().parents[1] / ".ci" / "commit-msg"


@pytest.mark.parametrize(
    ("message", "is_taken"),
    [
        ("Drain a slot before it is stopped\n", True),
        ("Drain a slot before it is stopped\n\nVisitors lost requests.\n", True),
        ("Drain a slot\n# Please enter the commit message\n", True),
        ("x" * 72, True),
        ("ü" * 72, True),
        ("x" * 73, False),
        ("Drain a slot.\n", False),
        ("Drain a slot\nVisitors lost requests.\n", False),
        ("\n", False),
    ],
)
def test_the_subject_is_short_and_alone(message: str, is_taken: bool, tmp_path: Path) -> None:
    """At most 72 characters, no full stop, and an empty line below."""
    file = tmp_path / "message"
    file.write_text(message, encoding="utf-8")
    done = subprocess.run([HOOK, file], check=False, capture_output=True, timeout=10)
    assert (done.returncode == 0) is is_taken
    assert is_taken or done.stderr

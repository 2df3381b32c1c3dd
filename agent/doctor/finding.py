"""What a check found: good, worth knowing, or to be mended, with the words that mend it."""

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """How bad it is."""

    OK = "good"
    WARN = "note"
    FAIL = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result."""

    what: str
    """What was looked at: ``Consul``, ``HAProxy runtime socket``."""
    grade: Grade
    seen: str
    advice: str = ""
    """What to do; empty when nothing is to be done."""


def ok(what: str, seen: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(what, Grade.OK, seen)


def warn(what: str, seen: str, advice: str) -> Finding:
    """Return a finding that does not keep the agent from working."""
    return Finding(what, Grade.WARN, seen, advice)


def fail(what: str, seen: str, advice: str) -> Finding:
    """Return a finding that does."""
    return Finding(what, Grade.FAIL, seen, advice)

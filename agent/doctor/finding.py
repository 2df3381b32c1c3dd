"""What a check found: good, worth knowing, or to be mended, with the words that mend it."""

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """How bad it is."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result."""

    what: str
    """What was looked at: ``Consul``, ``HAProxy runtime socket``."""
    grade: Grade
    seen: str
    advice: str = ""
    """What to do; empty when nothing is to be done."""


def good(what: str, seen: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(what, Grade.GOOD, seen)


def note(what: str, seen: str, advice: str) -> Finding:
    """Return a finding that does not keep the agent from working."""
    return Finding(what, Grade.NOTE, seen, advice)


def bad(what: str, seen: str, advice: str) -> Finding:
    """Return a finding that does."""
    return Finding(what, Grade.BAD, seen, advice)

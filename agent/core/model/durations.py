"""Durations as operators write them: ``250ms``, ``10s``, ``5m``, ``1h30m``; seconds everywhere inside."""

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
MAX_S = 366 * 86400.0


def parse_duration(value: object) -> float:
    """
    Read a duration.

    Args:
        value: text like ``1h30m`` or ``250ms``, or a number of seconds.

    Returns: seconds, 0 to 366 days.

    Raises:
        ValueError: anything else, naming the accepted forms.
    """
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds <= MAX_S:
        msg = f"{value!r:.60} is no duration: write 250ms, 10s, 5m, 1h30m or a number of seconds, 0 to 366d"
        raise ValueError(msg)
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str) or not re.fullmatch(rf"(?:{_PART.pattern})+", value):
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(value))


def format_duration(seconds: float) -> str:
    """Write a duration the way people read it: ``45s``, ``3m20s``, ``2h``; two units at most."""
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if 0 < seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 10 and round(seconds, 1) != int(seconds):
        return f"{seconds:.1f}s"
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


def _exactly(seconds: float) -> str | float:
    """Write a duration so that it reads back as the same: a document's copy must not differ from it."""
    text = format_duration(seconds)
    return text if parse_duration(text) == seconds else seconds


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(_exactly, return_type=str | float, when_used="json"),
]
"""A pydantic field of seconds that reads and writes operators' notation."""

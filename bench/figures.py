"""What a measurement found, beside its target: printed as a table and kept as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; *target* is empty where there is none, and *ok* is true then."""

    name: str
    value: float
    unit: str
    target: str
    ok: bool


def at_least(name: str, value: float, unit: str, least: float) -> Figure:
    """Return the figure with the target "not below *least*"."""
    return Figure(name, value, unit, f">= {least:g}", value >= least)


def at_most(name: str, value: float, unit: str, most: float) -> Figure:
    """Return the figure with the target "not above *most*"."""
    return Figure(name, value, unit, f"<= {most:g}", value <= most)


def shown(name: str, value: float, unit: str) -> Figure:
    """Return the figure without a target."""
    return Figure(name, value, unit, "", ok=True)


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as lines of text, those that miss their target marked."""
    values = [f"{each.value:,.0f}" if each.value >= 1000 else f"{each.value:,.3g}" for each in figures]
    name_width = max((len(each.name) for each in figures), default=0)
    value_width = max((len(value) for value in values), default=0)
    lines = []
    for each, value in zip(figures, values, strict=True):
        verdict = "" if each.ok else "  MISSED"
        line = f"{each.name:<{name_width}}  {value:>{value_width}} {each.unit:<6} {each.target:<9}{verdict}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def write(figures: Sequence[Figure], path: Path) -> None:
    """Write the figures to *path* as a JSON list of name, value, unit, target, ok."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(each) for each in figures], indent=1) + "\n")

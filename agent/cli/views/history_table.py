"""The history of an app's rollouts on a terminal, and as JSON."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.adapters.consul.history import Entry, Rollout
from agent.cli.views.history_hosts import host_times, steps
from agent.cli.views.text import clean, short
from agent.core.model.durations import format_duration
from agent.core.model.record import Phase

HOSTS_MAX = 30
_STYLES = {Phase.SUCCESSFUL: "green", Phase.ROLLBACK_FAILED: "bold red"}


def table(rollouts: Iterable[Rollout]) -> RenderableType:
    """Lay out one line per rollout, the newest first."""
    laid = Table("", "began", "took", "outcome", "image", "by", "reason", "why", box=None, pad_edge=False)
    for each in reversed(tuple(rollouts)):
        phase = each.last.phase
        why = "" if phase is Phase.SUCCESSFUL else each.last.why
        laid.add_row(
            Text(f"#{each.generation}"),
            Text(_when(each.first.at)),
            Text(format_duration(each.took_s)),
            Text(str(phase or "?"), style=_STYLES.get(phase, "yellow") if phase else "red"),
            Text(short(each.image)),
            *(Text(clean(text)) for text in (each.author, each.first.reason, why)),
        )
    return laid


def timeline(rollout: Rollout, members: tuple[str, ...]) -> RenderableType:
    """Lay out one rollout: its head, each change, how long each phase took, and log lines of what failed."""
    first, last = rollout.first, rollout.last
    reason = f": {clean(first.reason)}" if first.reason else ""
    ended = f"{last.phase or '?'} after {format_duration(rollout.took_s)}" if rollout.has_ended else f"is {last.phase}"
    parts: list[RenderableType] = [
        Text.assemble((f"rollout {rollout.generation}", "bold"), f" · {rollout.image} · {ended}"),
        Text(f"by {clean(rollout.author)}{reason} · {_when(first.at)}"),
    ]
    if last.source or last.target:
        parts.append(Text(f"from {last.source or 'nothing'} to {last.target or 'nothing'}"))
    if members:
        parts.append(Text(f"{len(members)} host(s): {', '.join(members[:20])}{' ...' if len(members) > 20 else ''}"))
    parts += [_changes(rollout), _phases(rollout), *_hosts(rollout)]
    if rollout.lines:
        parts.append(Text("last log lines of what failed:", style="dim"))
        parts += [Text(f"  {clean(line)}", style="dim") for line in rollout.lines]
    return Group(*parts)


def documents(rollouts: Iterable[Rollout]) -> list[dict[str, Any]]:
    """Return rollouts as JSON, the newest first."""
    return [document(each) for each in reversed(tuple(rollouts))]


def document(rollout: Rollout, members: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return one rollout as JSON; with *members* whole."""
    head = {
        "generation": rollout.generation,
        "image": rollout.image,
        "author": rollout.author,
        "reason": rollout.first.reason,
        "began_at": rollout.first.at.isoformat(),
        "took_s": round(rollout.took_s, 3),
        "phase": rollout.last.phase,
        "has_ended": rollout.has_ended,
        "why": rollout.last.why,
        "source": rollout.last.source or None,
        "target": rollout.last.target or None,
    }
    if members is None:
        return head
    return head | {
        "members": list(members),
        "hosts": [
            {"node": each.node, "staged_s": _rounded(each.staged_s), "switched_s": _rounded(each.switched_s)}
            for each in host_times(rollout)
        ],
        "steps": [
            {"hosts": step.hosts, "skew_s": _rounded(step.skew_s), "last_s": _rounded(step.last_s)}
            for step in steps(rollout)
        ],
        "phases": [{"phase": phase, "took_s": took} for phase, took in rollout.phases],
        "entries": [
            entry.model_dump(mode="json", exclude={"generation", "lines", "hosts"}) for entry in rollout.entries
        ],
        "lines": list(rollout.lines),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _changes(rollout: Rollout) -> Table:
    laid = Table("at", "after", "who", "what", "phase", "why", box=None, pad_edge=False)
    for entry in rollout.entries:
        after = format_duration((entry.at - rollout.first.at).total_seconds())
        cells = (_when(entry.at, with_date=False), f"+{after}", entry.by, entry.what, _step(entry), entry.why)
        laid.add_row(*(Text(clean(cell)) for cell in cells))
    return laid


def _step(entry: Entry) -> str:
    return str(entry.phase or "?") if entry.phase is not entry.was else ""


def _phases(rollout: Rollout) -> Text:
    took = [f"{phase} {format_duration(seconds)}" for phase, seconds in rollout.phases if seconds is not None]
    return Text(f"took: {', '.join(took)}" if took else "", style="dim")


def _hosts(rollout: Rollout) -> list[RenderableType]:
    times = host_times(rollout)
    if not times:
        return []
    laid = Table("host", "staged after", "switched after", box=None, pad_edge=False)
    for each in times[:HOSTS_MAX]:
        laid.add_row(Text(each.node), Text(_after(each.staged_s)), Text(_after(each.switched_s)))
    parts: list[RenderableType] = [laid]
    if len(times) > HOSTS_MAX:
        parts.append(Text(f"and {len(times) - HOSTS_MAX} more, which were faster", style="dim"))
    for step in steps(rollout):
        text = (
            f"{step.hosts} host(s) switched within {_after(step.skew_s)} of each other, the last {_after(step.last_s)}"
        )
        parts.append(Text(f"{text} after the commit", style="dim"))
    return parts


def _after(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f}ms" if abs(seconds) < 10 else f"{seconds:.1f}s"


def _when(at: datetime, *, with_date: bool = True) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S.%f")[: None if with_date else -3]

"""
Following a rollout, pure: what is new since the look before, and whether the command's goal is reached.

The watching itself, with its clock and its screen, is :mod:`agent.cli.rollout.follower`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from agent.adapters.consul.history import Entry
from agent.cli.exit_codes import Exit
from agent.cli.options import WaitUntil
from agent.cli.views.fleet import FleetView, Row
from agent.cli.views.text import clean, slot_text
from agent.core.model.durations import format_duration
from agent.core.model.names import NodeName
from agent.core.model.record import Phase
from agent.core.rollout.decision import GOING_BACK, Decision

_DIGITS = re.compile(r"\d+(\.\d+)?")
SWITCHED = frozenset({Phase.BAKING, Phase.RETIRING, Phase.SUCCESSFUL})


class Direction(StrEnum):
    """Where a command wants the rollout to go."""

    FORWARD = "forward"
    BACK = "back"


@dataclass(frozen=True, slots=True)
class Followed:
    """Which rollout is followed, and until when."""

    generation: int
    wait_until: WaitUntil = WaitUntil.SWITCHED
    direction: Direction = Direction.FORWARD


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How it ended for the command."""

    code: Exit
    phase: str
    text: str
    wants_lines: bool = False
    """Whether the last log lines of what failed belong below it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of news."""

    text: str
    at: float | None = None
    """Unix seconds; None: now."""
    is_of_a_host: bool = False
    """A live table shows it already."""


@dataclass(frozen=True, slots=True)
class ProgressState:
    """What was told already."""

    seq: int = -1
    hosts: Mapping[NodeName, str] = field(default_factory=dict)
    coordinator: str = ""
    edits: tuple[str, ...] = ()
    promotion: bool = False


def diff(before: ProgressState, view: FleetView, entries: Sequence[Entry]) -> tuple[ProgressState, tuple[Line, ...]]:
    """
    Say what is new.

    Args:
        before: what was told already.
        view: the present look at the rollout that is followed.
        entries: its audit entries; without those since *before*, the record's own words must do.

    Returns: what to remember, and a line for each change; numbers that move in a host's words are no change.
    """
    record = view.record
    assert record is not None
    now = ProgressState(
        seq=record.seq,
        hosts={row.node: clean(_host_text(row)) for row in view.rows},
        coordinator="" if view.has_coordinator else view.coordinator,
        edits=view.edits,
        promotion=_waits_for_promote(record),
    )
    lines = [*_changes(before, record, entries), *(Line(text) for text in _notices(before, now, view, record))]
    known = before.hosts or now.hosts
    changed = (node for node, text in now.hosts.items() if _same(text) != _same(known.get(node, "")))
    return now, (*lines, *(Line(f"{node}: {now.hosts[node]}", is_of_a_host=True) for node in changed))


def _changes(before: ProgressState, record: Decision, entries: Sequence[Entry]) -> Iterator[Line]:
    """Tell each change of the record, with the time its author wrote it down."""
    told = [entry for entry in entries if before.seq < entry.seq <= record.seq]
    for entry in told:
        if entry.phase is not entry.was:
            text = f"{entry.phase}: {entry.what}{f', {entry.why}' if entry.why else ''}"
        else:
            text = f"{entry.what} by {entry.by}{f': {record.flags.note}' if entry.epoch == 0 else ''}"
        yield Line(clean(text), entry.at.timestamp())
    if not told and record.seq > before.seq:
        yield Line(clean(f"{record.phase}: {record.why}" if record.why else str(record.phase)))


def _notices(before: ProgressState, now: ProgressState, view: FleetView, record: Decision) -> Iterator[str]:
    if now.coordinator != before.coordinator:
        yield clean(now.coordinator or f"a coordinator lives: {view.coordinator}")
    if now.promotion and not before.promotion:
        yield f"waits for `tidegate promote --app {view.snapshot.app}`, at most {_most(record, view.snapshot.at)}"
    for edit in now.edits:
        if edit not in before.edits:
            yield f"! {clean(edit)}"


def result_of(view: FleetView, followed: Followed) -> CommandResult | None:
    """Return the end of the following; None while it goes on."""
    record = view.record
    if record is None or record.generation < followed.generation:
        text = f"rollout {followed.generation} is gone from Consul: its state went back (see `tidegate adopt`)"
        return CommandResult(Exit.ERROR, "gone", text)
    if record.generation > followed.generation:
        return None  # its history tells
    if record.is_noop:
        return CommandResult(
            Exit.DONE, record.phase, f"rollout {record.generation} had nothing to do: {clean(record.why)}"
        )
    if record.phase.is_terminal:
        return ended(followed, record.phase, record.why)
    if followed.direction is Direction.BACK:
        return None
    if followed.wait_until is not WaitUntil.DONE and record.phase in SWITCHED:
        return CommandResult(Exit.DONE, record.phase, _switched(record, view))
    if followed.wait_until is WaitUntil.PROMOTION and _waits_for_promote(record):
        where = "is staged on every host" if record.phase is Phase.READY else "serves on its canary"
        return CommandResult(
            Exit.DONE, record.phase, f"rollout {record.generation} {where}; `tidegate promote` goes on"
        )
    return None


def ended(followed: Followed, phase: Phase, why: str) -> CommandResult:
    """Judge a rollout that has ended."""
    told = f"rollout {followed.generation} ended {phase}{f': {clean(why)}' if why and why != 'done' else ''}"
    if followed.direction is Direction.BACK:
        good = phase in {Phase.ABORTED, Phase.ROLLED_BACK}
        code = Exit.DONE if good else Exit.TAKEN_BACK if phase is Phase.ROLLBACK_FAILED else Exit.ERROR
        return CommandResult(code, phase, told, wants_lines=not good)
    if phase is Phase.SUCCESSFUL:
        return CommandResult(Exit.DONE, phase, told)
    return CommandResult(Exit.TAKEN_BACK, phase, told, wants_lines=True)


def how_to_come_back(app: str, record: Decision | None, generation: int) -> str:
    """Say what an operator does who leaves a rollout alone."""
    shows = f"rollout {generation} goes on: `tidegate status --app {app} --watch` shows it"
    if record is None or record.generation != generation or record.is_before_commit:
        return f"{shows}, `tidegate abort --app {app}` ends it"
    return shows if record.phase in GOING_BACK else f"{shows}, `tidegate rollback --app {app}` takes it back"


def waiting_text(view: FleetView) -> str:
    """Say in one line what is waited for."""
    if not view.has_coordinator:
        return view.coordinator
    return clean("; ".join(str(wait) for wait in view.waits[:3])) or "the coordinator's next step"


def _switched(record: Decision, view: FleetView) -> str:
    text = f"rollout {record.generation}: every host has switched"
    if record.phase is Phase.SUCCESSFUL:
        return text
    back = "; `tidegate rollback` takes it back" if record.phase is Phase.BAKING else ""
    until = f", at most {_most(record, view.snapshot.at)} more" if record.deadline else ""
    return f"{text}; it is {record.phase}{until}{back}"


def _waits_for_promote(record: Decision) -> bool:
    if record.flags.promoted or record.flags.aborted:
        return False
    return record.phase is Phase.AWAITING_PROMOTION or (
        record.phase is Phase.READY and record.strategy.waits_for_promote
    )


def _most(record: Decision, now: float) -> str:
    return format_duration(max(0.0, record.deadline - now)) if record.deadline else "promote_timeout"


def _host_text(row: Row) -> str:
    busy = ((name, slot) for name, slot in sorted(row.slots.items()) if slot.release or slot.reason)
    slots = ", ".join(f"{name} {slot_text(slot)}" for name, slot in busy)
    return f"{slots or row.phase}{f' ({row.reason})' if row.reason else ''}"


def _same(text: str) -> str:
    return _DIGITS.sub("0", text)

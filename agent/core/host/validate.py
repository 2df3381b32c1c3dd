"""
Which of what Consul says is followed. Absence is not a command, and state that goes back is held.

========================================================  ==================================================
what was read                                             what is acted on
========================================================  ==================================================
nothing usable (away, forbidden)                          the last good state; at boot after ``boot_wait``
record with a lower (generation, seq) than seen           the last good state, whole, until adopted
image key with another value and a lower ModifyIndex      the last good state, whole, until adopted
record unreadable, or of a newer ``v``                    the last good state, whole; none ever: nothing is changed
record absent                                             the last good record
image key missing, empty or unreadable                    its last good value; none ever: nothing recorded
========================================================  ==================================================
"""

from dataclasses import dataclass, replace

from agent.core.host.desired import AsItIs, Desired, Keys, desired
from agent.core.host.memory import Baseline, KeyMemory
from agent.core.model.durations import format_duration
from agent.core.model.errors import PermanentError
from agent.core.model.keys import Absent, Forbidden, Invalid, KeySnapshot, Known, Outcome, Present, Reading, Unknown
from agent.core.model.names import NodeName
from agent.core.model.record import Phase, RolloutRecord, read_record


@dataclass(frozen=True, slots=True)
class BootState:
    """What decides whether the journal may be trusted while Consul does not answer."""

    is_running: bool
    """Whether a container of the app runs."""
    confirmed: bool
    """Whether this process has read the desired state from Consul."""
    waited_s: float
    """Seconds since the process began to ask."""
    boot_wait_s: float = 60.0
    journal_max_age_s: float = 86400.0
    now_wall: float = 0.0
    """Unix time, only compared with the journal's own."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What to want, and the baseline the next reading is judged against."""

    desired: Desired
    baseline: Baseline


def judge(outcome: Outcome, baseline: Baseline, node: NodeName, boot: BootState) -> Judged:
    """Say what *node* should want after *outcome*; see the table above."""
    match outcome:
        case Known(snapshot):
            return _judge_known(snapshot, baseline, node, boot.now_wall)
        case Forbidden(reason) | Unknown(reason):
            return Judged(_without_consul(reason, baseline, node, boot), baseline)


def _without_consul(reason: str, baseline: Baseline, node: NodeName, boot: BootState) -> Desired:
    known = baseline.active is not None or baseline.rollout is not None
    if boot.is_running or boot.confirmed:
        if not known:
            return Desired(AsItIs(reason))
        by = "what was last read" if boot.confirmed else "the journal"
        return _last_good(baseline, node, (f"{reason}: going by {by}",))
    if boot.waited_s < boot.boot_wait_s:
        left = format_duration(boot.boot_wait_s - boot.waited_s)
        return Desired(AsItIs(f"{reason}: waits for Consul, at most {left} more"))
    if not known:
        return Desired(AsItIs(f"{reason}: nothing in the journal, so the host is not ready"))
    age = boot.now_wall - (baseline.confirmed_at_wall or 0.0)
    if not 0 <= age <= boot.journal_max_age_s:
        return Desired(AsItIs(f"{reason}: the journal was confirmed {format_duration(max(age, 0))} ago, too long"))
    return _last_good(baseline, node, (f"{reason}: going by the journal, confirmed {format_duration(age)} ago",))


def _judge_known(snapshot: KeySnapshot, baseline: Baseline, node: NodeName, now_wall: float) -> Judged:
    try:
        record, text, notes = _record(snapshot.rollout, baseline)
    except _HeldError as exc:
        return Judged(_held(baseline, node, str(exc)), baseline)
    seen = _last_record(baseline)
    if record is not None and (seen is None or record.generation > seen.generation):
        baseline = baseline.but(active=_rebased(baseline.active), stage=_rebased(baseline.stage))
    keys: dict[str, KeyMemory | None] = {}
    for name, reading, last in (
        ("active/image", snapshot.active, baseline.active),
        ("stage/image", snapshot.stage, baseline.stage),
    ):
        try:
            keys[name], note = _key(name, reading, last)
        except _HeldError as exc:
            return Judged(_last_good(baseline, node, (str(exc),)), baseline)
        notes += note
    baseline = Baseline(
        active=keys["active/image"],
        stage=keys["stage/image"],
        rollout=text,
        confirmed_at_wall=now_wall,
    )
    by_keys = record is None or record.phase is Phase.PENDING or record.phase.is_terminal
    if keys["active/image"] is None and isinstance(snapshot.active, Invalid) and by_keys:
        return Judged(Desired(AsItIs(f"{snapshot.active.reason}: nothing else is known to serve")), baseline)
    return Judged(_noted(desired(_keys(baseline, record), node), notes), baseline)


class _HeldError(Exception):
    """The state in Consul is not followed: it is older than what was acted on, or cannot be read."""


def _record(reading: Reading, baseline: Baseline) -> tuple[RolloutRecord | None, KeyMemory | None, tuple[str, ...]]:
    seen = _last_record(baseline)
    match reading:
        case Absent():
            if seen is None or seen.phase.is_terminal:
                return seen, baseline.rollout, ()
            note = f"the rollout record is gone though rollout {seen.generation} was {seen.phase}: it is kept"
            return seen, baseline.rollout, (note,)
        case Invalid(reason):
            raise _HeldError(reason)
        case Present(text, index):
            try:
                record = read_record(text)
            except PermanentError as exc:
                raise _HeldError(str(exc)) from exc
            if seen is not None and record.version < seen.version:
                raise _HeldError(
                    f"the rollout record went back from {seen.version} to {record.version}: it is not followed; "
                    "`tidegate adopt` accepts it",
                )
            return record, KeyMemory(value=text, modify_index=index), ()


def _key(name: str, reading: Reading, last: KeyMemory | None) -> tuple[KeyMemory | None, tuple[str, ...]]:
    match reading:
        case Present(value, index):
            if last is not None and value != last.value and index < last.modify_index:
                raise _HeldError(
                    f"{name} went back to {value} (ModifyIndex {index}, below {last.modify_index} acted on): "
                    "it is not followed; `tidegate adopt` accepts it",
                )
            return KeyMemory(value=value, modify_index=index), ()
        case Absent():
            return last, () if last is None else (f"{name} is missing: {last.value} is kept",)
        case Invalid(reason):
            return last, (reason,) if last is None else (f"{reason}: {last.value} is kept",)


def _rebased(key: KeyMemory | None) -> KeyMemory | None:
    """Forget how high the index was: a new generation is a new beginning."""
    return None if key is None else key.but(modify_index=0)


def _last_record(baseline: Baseline) -> RolloutRecord | None:
    return read_record(baseline.rollout.value) if baseline.rollout else None


def _held(baseline: Baseline, node: NodeName, reason: str) -> Desired:
    if baseline.active is None and baseline.rollout is None:
        return Desired(AsItIs(f"{reason}: nothing else is known to serve"))
    return _last_good(baseline, node, (reason,))


def _last_good(baseline: Baseline, node: NodeName, notes: tuple[str, ...]) -> Desired:
    return _noted(desired(_keys(baseline, _last_record(baseline)), node), notes)


def _keys(baseline: Baseline, record: RolloutRecord | None) -> Keys:
    index = baseline.rollout.modify_index if baseline.rollout else 0
    return Keys(baseline.active, baseline.stage, record, index)


def _noted(wish: Desired, notes: tuple[str, ...]) -> Desired:
    return replace(wish, notes=wish.notes + notes)

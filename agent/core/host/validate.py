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

from agent.core.host.desired import Desired, Keys, Unchanged, desired
from agent.core.host.memory import KeyMemory, LastApplied
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
class Validated:
    """What to want, and the baseline the next reading is judged against."""

    desired: Desired
    last_applied: LastApplied


def validate(outcome: Outcome, last_applied: LastApplied, node: NodeName, boot: BootState) -> Validated:
    """Say what *node* should want after *outcome*; see the table above."""
    match outcome:
        case Known(snapshot):
            return _validate_known(snapshot, last_applied, node, boot.now_wall)
        case Forbidden(reason) | Unknown(reason):
            return Validated(_without_consul(reason, last_applied, node, boot), last_applied)


def _without_consul(reason: str, last_applied: LastApplied, node: NodeName, boot: BootState) -> Desired:
    known = last_applied.active is not None or last_applied.rollout is not None
    if boot.is_running or boot.confirmed:
        if not known:
            return Desired(Unchanged(reason))
        by = "what was last read" if boot.confirmed else "the journal"
        return _last_good(last_applied, node, (f"{reason}: going by {by}",))
    if boot.waited_s < boot.boot_wait_s:
        left = format_duration(boot.boot_wait_s - boot.waited_s)
        return Desired(Unchanged(f"{reason}: waits for Consul, at most {left} more"))
    if not known:
        return Desired(Unchanged(f"{reason}: the journal names no release, so the host is not ready"))
    age = boot.now_wall - (last_applied.confirmed_at_wall or 0.0)
    if not 0 <= age <= boot.journal_max_age_s:
        return Desired(
            Unchanged(
                f"{reason}: Consul confirmed the journal {format_duration(max(age, 0))} ago, more than journal_max_age"
            )
        )
    return _last_good(last_applied, node, (f"{reason}: going by the journal, confirmed {format_duration(age)} ago",))


def _validate_known(snapshot: KeySnapshot, last_applied: LastApplied, node: NodeName, now_wall: float) -> Validated:
    try:
        record, text, notes = _record(snapshot.rollout, last_applied)
    except _HeldError as exc:
        return Validated(_held(last_applied, node, str(exc)), last_applied)
    seen = _last_record(last_applied)
    if record is not None and (seen is None or record.generation > seen.generation):
        last_applied = last_applied.replace(active=_rebased(last_applied.active), stage=_rebased(last_applied.stage))
    keys: dict[str, KeyMemory | None] = {}
    for name, reading, last in (
        ("active/image", snapshot.active, last_applied.active),
        ("stage/image", snapshot.stage, last_applied.stage),
    ):
        try:
            keys[name], note = _key(name, reading, last)
        except _HeldError as exc:
            return Validated(_last_good(last_applied, node, (str(exc),)), last_applied)
        notes += note
    last_applied = LastApplied(
        active=keys["active/image"],
        stage=keys["stage/image"],
        rollout=text,
        confirmed_at_wall=now_wall,
    )
    by_keys = record is None or record.phase is Phase.PENDING or record.phase.is_terminal
    if keys["active/image"] is None and isinstance(snapshot.active, Invalid) and by_keys:
        return Validated(
            Desired(Unchanged(f"{snapshot.active.reason}: no other release is known that could serve")), last_applied
        )
    return Validated(_noted(desired(_keys(last_applied, record), node), notes), last_applied)


class _HeldError(Exception):
    """The state in Consul is not followed: it is older than what was acted on, or cannot be read."""


def _record(
    reading: Reading, last_applied: LastApplied
) -> tuple[RolloutRecord | None, KeyMemory | None, tuple[str, ...]]:
    seen = _last_record(last_applied)
    match reading:
        case Absent():
            if seen is None or seen.phase.is_terminal:
                return seen, last_applied.rollout, ()
            note = f"the rollout record is gone though rollout {seen.generation} was {seen.phase}: it is kept"
            return seen, last_applied.rollout, (note,)
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
    return None if key is None else key.replace(modify_index=0)


def _last_record(last_applied: LastApplied) -> RolloutRecord | None:
    return read_record(last_applied.rollout.value) if last_applied.rollout else None


def _held(last_applied: LastApplied, node: NodeName, reason: str) -> Desired:
    if last_applied.active is None and last_applied.rollout is None:
        return Desired(Unchanged(f"{reason}: no other release is known that could serve"))
    return _last_good(last_applied, node, (reason,))


def _last_good(last_applied: LastApplied, node: NodeName, notes: tuple[str, ...]) -> Desired:
    return _noted(desired(_keys(last_applied, _last_record(last_applied)), node), notes)


def _keys(last_applied: LastApplied, record: RolloutRecord | None) -> Keys:
    index = last_applied.rollout.modify_index if last_applied.rollout else 0
    return Keys(last_applied.active, last_applied.stage, record, index)


def _noted(followed: Desired, notes: tuple[str, ...]) -> Desired:
    return replace(followed, notes=followed.notes + notes)

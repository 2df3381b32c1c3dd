"""
What operators ask of a rollout: each command is a change of the record, or is refused with what to do instead.

A command writes durations and flags, never deadlines: only a coordinator's clock sets those.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from agent.core.model.durations import format_duration
from agent.core.model.errors import PermanentError
from agent.core.model.keys import Absent, Invalid, KeySnapshot, Present, index_of
from agent.core.model.names import ImageReference
from agent.core.model.record import Phase, RecordedRelease
from agent.core.model.report import NodeReport
from agent.core.rollout.change import Change
from agent.core.rollout.decision import (
    AFTER_COMMIT,
    GOING_BACK,
    REASON_MAX_CHARS,
    Decision,
    Flags,
    Request,
    read_decision,
)
from agent.core.rollout.strategy import Strategy

SPEC_MAX_BYTES = 16 * 1024
"""A record holds up to three specs, and hosts read no key over 64 KiB."""
_FIRST_DEPLOY = "visitors have seen it, and as the first deploy it has no release to go back to"


class InProgressError(PermanentError):
    """Another rollout is in progress: who began it, why, and what can be done."""

    def __init__(self, record: Decision) -> None:
        self.record = record
        began = f"rollout {record.generation} ({_image(record)}) by {record.author or 'nobody named'}"
        reason = f" ({record.reason})" if record.reason else ""
        ways = ["--queue waits for its end"]
        if record.is_before_commit:
            ways += ["--supersede aborts it first", "`tidegate abort` ends it"]
        elif record.phase in AFTER_COMMIT and record.source is not None:
            ways += ["`tidegate rollback` takes it back"]
        super().__init__(f"{began}{reason} is {record.phase}: {', '.join(ways)}")


@dataclass(frozen=True, slots=True)
class CommandAuthor:
    """Who commands, why, and when."""

    author: str
    reason: str
    at: float
    """Unix seconds; for people, compared with nothing."""

    @property
    def note(self) -> str:
        """Both in one line."""
        return (f"{self.author}: {self.reason}" if self.reason else self.author)[:REASON_MAX_CHARS]


def deploy(
    keys: KeySnapshot, reports: Iterable[NodeReport], request: Request, strategy: Strategy, by: CommandAuthor
) -> Change:
    """
    Begin a rollout to what *request* names.

    Args:
        keys: the app's keys, read consistently.
        reports: all hosts' reports, of whichever age: a new generation is above all that any host has seen.
        request: image, spec and whether hosts may differ.
        strategy: the knobs.
        by: who asks.

    Raises:
        InProgressError: another rollout is in progress.
        PermanentError: a change by hand is under way, a key cannot be read, or the spec is too large.
    """
    before = current(keys)
    if before is not None and not before.phase.is_terminal:
        raise InProgressError(before)
    _refuse_by_hand(keys, before)
    size = len(json.dumps(request.spec.revealed()))
    if size > SPEC_MAX_BYTES:
        raise PermanentError(f"the spec is {size} bytes long, at most {SPEC_MAX_BYTES} go into the record")
    generation = max([before.generation if before else 0, *(report.generation for report in reports)]) + 1
    record = Decision(
        generation=generation,
        seq=0,
        phase=Phase.PENDING,
        source=_standing(before, keys),
        request=request,
        strategy=strategy,
        author=by.author[:REASON_MAX_CHARS],
        reason=by.reason[:REASON_MAX_CHARS],
        why="asked for",
        created_at=by.at,
    )
    return Change(record, "deploy", was=before.phase if before else None)


def current(keys: KeySnapshot) -> Decision | None:
    """
    Return the record; None where there is none.

    Raises:
        PermanentError: it cannot be read, or is of a newer version.
    """
    match keys.rollout:
        case Absent():
            return None
        case Present(text):
            return read_decision(text)
        case unreadable:
            raise PermanentError(unreadable.reason)


def promote(keys: KeySnapshot, by: CommandAuthor) -> Change:
    """
    Let the rest of the fleet follow the canary, or a staged fleet switch.

    Raises:
        PermanentError: nothing waits for it.
    """
    record = _going_forward(keys, "promote")
    waits = record.phase is Phase.AWAITING_PROMOTION or (
        record.phase is Phase.READY and record.strategy.waits_for_promote
    )
    if not waits:
        is_early = record.phase is Phase.CANARY or (record.is_before_commit and record.strategy.waits_for_promote)
        when = ", not yet" if is_early else ""
        raise PermanentError(f"rollout {record.generation} is {record.phase}: it does not wait for `promote`{when}")
    return _flagged(record, "promote", by, promoted=True)


def abort(keys: KeySnapshot, by: CommandAuthor) -> Change:
    """
    End a rollout before the commit.

    Raises:
        PermanentError: there is none, or visitors may have seen it: that is a rollback.
    """
    record = _going_forward(keys, "abort")
    if record.phase in AFTER_COMMIT and record.source is None:
        raise PermanentError(f"rollout {record.generation} is {record.phase}: {_FIRST_DEPLOY}")
    if record.phase in AFTER_COMMIT:
        raise PermanentError(
            f"rollout {record.generation} is {record.phase}: visitors have seen it; "
            "`tidegate rollback` takes it back and moves those who did",
        )
    _refuse_retiring(record)
    return _flagged(record, "abort", by, aborted=True)


def roll_back(keys: KeySnapshot, by: CommandAuthor) -> Change:
    """
    Take back the rollout in progress, after its commit.

    Raises:
        PermanentError: there is none, it has not committed, retires, or goes back already (S10).
    """
    record = _going_forward(keys, "rollback")
    if record.is_before_commit:
        raise PermanentError(f"rollout {record.generation} is {record.phase}: nobody has seen it; use `tidegate abort`")
    if record.source is None:
        raise PermanentError(f"rollout {record.generation} is {record.phase}: {_FIRST_DEPLOY}")
    _refuse_retiring(record)
    return _flagged(record, "rollback", by, aborted=True)


def pause(keys: KeySnapshot, by: CommandAuthor) -> Change:
    """Let nothing advance but an abort or a rollback. Raises as the others."""
    record = _going_forward(keys, "pause")
    if record.flags.paused:
        raise PermanentError(f"rollout {record.generation} is paused already ({record.flags.note})")
    return _flagged(record, "pause", by, paused=True)


def resume(keys: KeySnapshot, by: CommandAuthor) -> Change:
    """Go on after a pause; deadlines are shifted by its length. Raises as the others."""
    record = _going_forward(keys, "resume")
    if not record.flags.paused:
        raise PermanentError(f"rollout {record.generation} is not paused: it is {record.phase}")
    return _flagged(record, "resume", by, paused=False)


def previous_of(keys: KeySnapshot) -> RecordedRelease:
    """
    Return the release before the present one, as the last successful rollout recorded it.

    Raises:
        PermanentError: the last rollout left none behind.
    """
    record = current(keys)
    if record is None or record.phase is not Phase.SUCCESSFUL or record.source is None:
        raise PermanentError("no release before this one is recorded: name one (`tidegate history` lists them)")
    return record.source


def manual_edits(record: Decision, keys: KeySnapshot) -> tuple[str, ...]:
    """Say which mirrors somebody changed in mid-rollout: they are ignored."""
    notes = []
    expected = mirrors_in(record)
    for name, reading in (("active", keys.active), ("stage", keys.stage)):
        wanted = expected[name]
        if wanted is not None and isinstance(reading, Present) and not _names(reading.value, wanted):
            notes.append(f"{name}/image was changed to {reading.value} by hand in mid-rollout: it is ignored")
    return tuple(notes)


def _names(value: str, image: ImageReference) -> bool:
    """Whether a mirror still is *image*; one that the rollout has not written yet may lack the digest."""
    return value in {image, image.partition("@")[0]}


def mirrors_in(record: Decision) -> dict[str, ImageReference | None]:
    """Return what the two image keys mirror in the record's phase; None where nothing is expected."""
    source = record.source.image if record.source else None
    target = record.target.image if record.target else None
    match record.phase:
        case Phase.STAGING | Phase.READY | Phase.CANARY | Phase.AWAITING_PROMOTION | Phase.ABORTING:
            is_forced = record.request is not None and record.request.forces_source
            return {"active": None if is_forced else source, "stage": target}
        case Phase.SWITCHING | Phase.BAKING | Phase.RETIRING:
            return {"active": target, "stage": target}
        case Phase.ROLLING_BACK:
            return {"active": source, "stage": target}
        case _:
            return {"active": None, "stage": None}


def _in_progress(keys: KeySnapshot, command: str) -> Decision:
    record = current(keys)
    if record is None or record.phase.is_terminal:
        last = f"; the last one, {record.generation}, is {record.phase}" if record else ""
        raise PermanentError(f"there is no rollout in progress to {command}{last}")
    return record


def _going_forward(keys: KeySnapshot, command: str) -> Decision:
    record = _in_progress(keys, command)
    if record.flags.aborted or record.phase in GOING_BACK:
        said = record.flags.note if record.flags.aborted else record.why
        raise PermanentError(f"rollout {record.generation} is {record.phase} and being taken back already ({said})")
    return record


def _refuse_retiring(record: Decision) -> None:
    if record.phase is Phase.RETIRING:
        raise PermanentError(
            f"rollout {record.generation} retires the release before: wait for its end "
            f"(at most {format_duration(record.strategy.progress_deadline)}), then `tidegate rollback` deploys it anew",
        )


def _flagged(record: Decision, command: str, by: CommandAuthor, **flags: bool) -> Change:
    changed = Flags(**{**dict(record.flags), **flags, "note": by.note})
    return Change(record.replace(seq=record.seq + 1, flags=changed), command, was=record.phase, why=by.note)


def _refuse_by_hand(keys: KeySnapshot, before: Decision | None) -> None:
    for reading in (keys.active, keys.stage):
        if isinstance(reading, Invalid):
            raise PermanentError(f"{reading.reason}: mend it first")
    match keys.active, keys.stage:
        case Present(active, since), Present(stage, at) if stage != active and at > since:
            raise PermanentError(
                f"{stage} is staged by hand beside {active}: activate it (active/image), "
                "or withdraw it by setting stage/image to the active one",
            )
        case Absent(), Present(stage, at) if not (
            before is not None and before.leaves_stage_behind and at <= index_of(keys.rollout)
        ):
            raise PermanentError(f"{stage} is staged by hand and nothing is active: activate it, or delete stage/image")
        case _:
            return


def _standing(before: Decision | None, keys: KeySnapshot) -> RecordedRelease | None:
    """Return the release that the rollout before left, where ``active/image`` still is it, or is gone."""
    if before is None or isinstance(keys.active, Invalid):
        return None
    if isinstance(keys.active, Absent):
        return before.final
    return before.release_for_image(keys.active.value)


def _image(record: Decision) -> str:
    return record.request.image if record.request else record.target.image if record.target else "adopted"

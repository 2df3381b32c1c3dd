"""
Decide what a rollout does next: one pure function of record, fleet and time (design.md, section 5).

====================  ===========================================  ==========================================
phase                 goes on when                                 ends otherwise
====================  ===========================================  ==========================================
pending               image resolved, one source, a free slot      abort, deadline, no such image, it serves
                      on every live host: staging                  already, no request: aborted
staging               every host staged, or lost within max_lost:  abort, deadline, hosts failed or lost:
                      ready                                        aborting
ready                 (promoted, where it waits for that and)      the same
                      seen once more, consistently: the commit
canary                its hosts have switched: awaiting_promotion  abort, deadline, hosts failed: rolling_back
awaiting_promotion    promoted: switching                          abort, timeout, hosts failed: rolling_back
switching             every host below the threshold switched:     abort, deadline, hosts failed: rolling_back
                      next step, after the last one baking
baking                bake over and nobody uses the source, or     abort, hosts failed: rolling_back
                      ``drain_timeout``: retiring
retiring              source gone everywhere: successful           deadline: successful, the rest listed
aborting              target gone everywhere: aborted              deadline: aborted, the rest listed
rolling_back          source serves everywhere: rolled_back        deadline, a host cannot: rollback_failed
====================  ===========================================  ==========================================

Hosts failed: more than ``max_failed``, or all that were asked (`TransitionContext.failures`); lost: more than
``max_lost``. A rollback without a source ends as ``rollback_failed`` at once.

Paused, nothing advances but an abort or a rollback (S11). Behind what live hosts have acted on (a restored snapshot),
nothing at all. One change at a time: the caller writes it and asks again.
"""

from dataclasses import dataclass

from agent.core.model.durations import format_duration
from agent.core.model.record import Phase
from agent.core.rollout.barrier import Wait
from agent.core.rollout.change import Change
from agent.core.rollout.decision import GOING_BACK, Decision
from agent.core.rollout.fleet import Fleet
from agent.core.rollout.phases_ending import bake_or_wait, finish_abort_or_wait, finish_rollback_or_wait, retire_or_wait
from agent.core.rollout.phases_forward import (
    commit_or_wait,
    promote_or_wait,
    stage_or_wait,
    start_or_wait,
    switch_or_wait,
)
from agent.core.rollout.transition import TransitionContext, Waiting, join_reasons

LOOK_AGAIN_S = 5.0
"""A rollout is looked at this often though nothing was reported: hosts get lost silently."""
CLOCKS_AGREE_S = 5.0
"""Coordinators' clocks differ by less; one that is behind by more would wait for deadlines that much longer."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What to write now, if anything, and what is waited for."""

    change: Change | None = None
    waits: tuple[Wait, ...] = ()
    look_again_at: float = float("inf")
    needs_consistent: bool = False
    """Only a consistent reading is missing: read again so, and ask again."""


def advance(record: Decision, fleet: Fleet, now: float) -> Transition:
    """Return the next change of *record*, or what it waits for, by the table above; *now* in Unix seconds."""
    if record.phase.is_terminal:
        return Transition()
    context = TransitionContext(record, fleet, now)
    found = _record_was_restored(context) or _enter(context) or _pause(context) or _STEPS[record.phase](context)
    if isinstance(found, Change):
        return Transition(found)
    ends = (wait.until for wait in found.waits if wait.until is not None and wait.until > now)
    return Transition(None, found.waits, min([now + LOOK_AGAIN_S, *ends]), found.needs_consistent)


_STEPS = {
    Phase.PENDING: start_or_wait,
    Phase.STAGING: stage_or_wait,
    Phase.READY: commit_or_wait,
    Phase.CANARY: switch_or_wait,
    Phase.AWAITING_PROMOTION: promote_or_wait,
    Phase.SWITCHING: switch_or_wait,
    Phase.BAKING: bake_or_wait,
    Phase.RETIRING: retire_or_wait,
    Phase.ABORTING: finish_abort_or_wait,
    Phase.ROLLING_BACK: finish_rollback_or_wait,
}


def _record_was_restored(context: TransitionContext) -> Waiting | None:
    """
    Wait where live hosts have acted on a later version than the record: a snapshot of Consul was restored.

    They hold against it, and so does the coordinator: what it would write has another history than what they did.
    """
    ahead = tuple(
        host.node
        for host in context.fleet
        if host.now is not None and (host.now.generation, host.now.seq) > context.record.version
    )
    if not ahead:
        return None
    return Waiting(
        (Wait(f"the record went back: {join_reasons(ahead)} acted on a later one; `tidegate adopt` accepts it"),)
    )


def _is_held(record: Decision) -> bool:
    """Whether a pause holds it: nothing stops an abort, a rollback or what follows them."""
    return record.flags.paused and not record.flags.aborted and record.phase not in GOING_BACK


def _enter(context: TransitionContext) -> Change | None:
    """Take up a record that a command wrote; or move the times of one that a coordinator with a fast clock stamped."""
    record, now = context.record, context.now
    if record.since is None:
        return context.stays("taken up", record.why, since=now, deadline=now + record.strategy.free_slot_wait_s)
    ahead = record.since - now
    if ahead <= CLOCKS_AGREE_S:
        return None
    why = f"the clock of the coordinator before was {format_duration(ahead)} ahead of this one's"
    return context.stays("deadline stamped anew", why, **_shifted(record, -ahead))


def _pause(context: TransitionContext) -> Change | Waiting | None:
    """Hold a paused rollout; when it goes on, move its deadlines by the length of the pause."""
    record = context.record
    if _is_held(record) and record.paused_at is None:
        return context.stays("pause noticed", record.flags.note, paused_at=context.now)
    if _is_held(record):
        return Waiting((Wait(f"paused: {record.flags.note}" if record.flags.note else "paused"),))
    if record.paused_at is None or record.flags.aborted:
        return None
    length = max(0.0, context.now - record.paused_at)
    why = f"paused for {format_duration(length)}"
    return context.stays("deadline shifted by the pause", why, **_shifted(record, length) | {"paused_at": None})


def _shifted(record: Decision, by_s: float) -> dict[str, object]:
    """Return the phase's times moved, so that as much of it is left as before."""
    times = {"since": record.since, "deadline": record.deadline, "paused_at": record.paused_at}
    return {name: None if time is None else time + by_s for name, time in times.items()}

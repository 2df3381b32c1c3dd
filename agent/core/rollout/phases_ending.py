"""The phases that end a rollout: baking and retiring after success, abort and rollback."""

from dataclasses import replace

from agent.core.model.durations import format_duration
from agent.core.model.record import Phase, RecordedRelease
from agent.core.rollout.barrier import NodeFailure, Wait, cannot_roll_back, still_holds, still_uses, why_not_rolled_back
from agent.core.rollout.change import Change
from agent.core.rollout.fleet import Host
from agent.core.rollout.transition import TransitionContext, Waiting, ended, join_reasons, with_mirrors


def bake_or_wait(context: TransitionContext) -> Change | Waiting:
    """Keep the source warm through the bake, then until nobody in the fleet uses it, or ``drain_timeout``."""
    record = context.record
    if record.flags.aborted:
        return begin_rollback(context, record.flags.note or "rolled back")
    if failures := context.failures(context.participants):
        return begin_rollback(context, join_reasons(failures), failures)
    if context.is_late:
        return context.enters(Phase.RETIRING, "retiring began", "drain_timeout is over")
    waits = _baking(context)
    if waits:
        return Waiting(waits)
    idle = format_duration(record.strategy.drain_idle)
    return context.enters(Phase.RETIRING, "retiring began", f"nobody has used the source for {idle}")


def _baking(context: TransitionContext) -> tuple[Wait, ...]:
    record, serving = context.record, context.serving
    assert record.since is not None
    waits = [
        Wait(f"old release in use: {use}", host.node, record.deadline)
        for host in serving
        if (use := still_uses(host, record)) is not None
    ]
    if not serving:
        waits = [Wait("no live host reports who still uses the old release", until=record.deadline)]
    bake_end = record.since + record.strategy.bake_time
    bake_left = bake_end - context.now
    if bake_left > 0:
        left = format_duration(bake_left)
        return (Wait(f"baking: the old release stays ready for a rollback for {left} more", until=bake_end), *waits)
    return tuple(waits)


def retire_or_wait(context: TransitionContext) -> Change | Waiting:
    """End when the source is gone everywhere; what is left at the deadline is listed."""
    waits = _holding(context, context.record.source)
    if waits and not context.is_late:
        return Waiting(waits)
    rest = f"left behind at progress_deadline: {join_reasons(waits)}" if waits else "done"
    return ended(context, Phase.SUCCESSFUL, "ended successfully", rest)


def begin_abort(context: TransitionContext, why: str, failures: tuple[NodeFailure, ...] = ()) -> Change:
    """Take the target out everywhere; no visitor has seen it."""
    return _with_lines(context.enters(Phase.ABORTING, "abort began", why), failures)


def begin_rollback(context: TransitionContext, why: str, failures: tuple[NodeFailure, ...] = ()) -> Change:
    """Send everybody back to the source; without one end as ``rollback_failed``, and change nothing on the hosts."""
    if context.record.source is None:
        change = ended(
            context, Phase.ROLLBACK_FAILED, "rollback is impossible", f"{why}; there is no release to go back to"
        )
        return _with_lines(with_mirrors(change, active=context.record.target), failures)
    change = context.enters(Phase.ROLLING_BACK, "rollback began", why)
    return _with_lines(with_mirrors(change, active=context.record.source), failures)


def finish_abort_or_wait(context: TransitionContext) -> Change | Waiting:
    """End when the target is gone everywhere, or at the deadline."""
    waits = _holding(context, context.record.target)
    if waits and not context.is_late:
        return Waiting(waits)
    rest = f"; left behind: {join_reasons(waits)}" if waits else ""
    return ended(context, Phase.ABORTED, "aborted", context.record.why + rest)


def finish_rollback_or_wait(context: TransitionContext) -> Change | Waiting:
    """End when the source serves everywhere; where a live host cannot, a person has to decide."""
    record = context.record
    hosts = _holders(context, record.target)
    stuck = tuple(failure for host in hosts if (failure := cannot_roll_back(host, record)) is not None)
    waits = _not_rolled_back(context, hosts)
    if waits and not context.is_late:
        return Waiting(waits)
    if not stuck and (not waits or not hosts):
        rest = f"; {join_reasons(waits)}" if waits else ""
        return ended(context, Phase.ROLLED_BACK, "rolled back", record.why + rest)
    why = f"{record.why}; not back: {join_reasons((*stuck, *waits))}"
    return _with_lines(ended(context, Phase.ROLLBACK_FAILED, "rollback failed", why), stuck)


def _not_rolled_back(context: TransitionContext, hosts: tuple[Host, ...]) -> tuple[Wait, ...]:
    """Return which of *hosts* do not serve the source yet, without those that cannot."""
    record, lost = context.record, context.lost
    if not hosts and lost:
        names = join_reasons(tuple(host.node for host in lost))
        return (Wait(f"no host is alive: {names} lost", until=record.deadline),)
    coming = (host for host in hosts if cannot_roll_back(host, record) is None)
    return tuple(
        Wait(reason, host.node, record.deadline)
        for host in coming
        if (reason := why_not_rolled_back(host, record)) is not None
    )


def _holding(context: TransitionContext, release: RecordedRelease | None) -> tuple[Wait, ...]:
    """Return the hosts that still have *release*, as waits."""
    record = context.record
    return tuple(
        Wait(reason, host.node, record.deadline)
        for host in _holders(context, release)
        if (reason := still_holds(host, record, release)) is not None
    )


def _holders(context: TransitionContext, release: RecordedRelease | None) -> tuple[Host, ...]:
    """Return members that are not lost, and those of the joined that have *release*."""
    if release is None:
        return ()
    return (*context.participants, *(host for host in context.joined if host.slot_of(release) is not None))


def _with_lines(change: Change, failures: tuple[NodeFailure, ...]) -> Change:
    lines = next((failure.lines for failure in failures if failure.lines), ())
    return replace(change, lines=lines)

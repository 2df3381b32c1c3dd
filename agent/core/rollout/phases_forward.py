"""The phases from a request to the last host that has switched; each may begin the abort or the rollback."""

from dataclasses import dataclass, replace

from agent.core.model.names import NodeName, parse_reference
from agent.core.model.record import Phase, RecordedRelease, node_hash
from agent.core.model.release import Release
from agent.core.rollout.barrier import Wait, why_not_free, why_not_staged, why_not_switched
from agent.core.rollout.change import Change
from agent.core.rollout.decision import Request
from agent.core.rollout.fleet import Host, Resolution
from agent.core.rollout.phases_ending import begin_abort, begin_rollback
from agent.core.rollout.source import UnclearSourceError, source_of
from agent.core.rollout.strategy import hosts_of
from agent.core.rollout.transition import TransitionContext, Waiting, ended, join_reasons, with_mirrors

ALL_HOSTS = "f" * 64


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Why the digest of a request's image is not known."""

    reason: str
    is_final: bool = False
    """There is no such image: asking again would not help."""


def start_or_wait(context: TransitionContext) -> Change | Waiting:
    """Begin staging once the digest and the release that serves now are known, and every live host has a free slot."""
    record = context.record
    if record.flags.aborted:
        return ended(context, Phase.ABORTED, "aborted", record.flags.note or "aborted before it began")
    if record.request is None:
        return ended(context, Phase.ABORTED, "aborted", "the record holds no request")
    resolved = _target(context, record.request)
    target = resolved if isinstance(resolved, RecordedRelease) else None
    source, unclear = _source(context)
    if target is not None and source is not None and source.release == target.release:
        return ended(context, Phase.ABORTED, "nothing to do", f"{target.image} is what serves already", target=target)
    if isinstance(resolved, Unresolved) and resolved.is_final:
        return ended(context, Phase.ABORTED, "aborted", resolved.reason)
    unknown = (resolved.reason,) if isinstance(resolved, Unresolved) else ()
    waits = (*(Wait(reason, until=record.deadline) for reason in (*unknown, *unclear)), *_not_free(context, target))
    if waits and context.is_late:
        return ended(context, Phase.ABORTED, "aborted", f"not begun in time: {join_reasons(waits)}")
    if waits or target is None:
        return Waiting(waits)
    members = tuple(host.node for host in context.fleet.present)
    change = context.enters(Phase.STAGING, "staging began", f"on {len(members)} host(s)", source=source, target=target)
    return replace(with_mirrors(change, stage=target), members=members, checks_active=True)


def _target(context: TransitionContext, request: Request) -> RecordedRelease | Unresolved:
    """Return the target once the registry answered."""
    match context.fleet.resolution:
        case None:
            return Unresolved(f"asks the registry for the digest of {request.image}")
        case Resolution(digest=None, error=error, is_final=is_final):
            return Unresolved(f"{request.image}: {error}", is_final)
        case answer:
            assert answer.digest is not None
            try:
                image = parse_reference(f"{request.image.partition('@')[0]}@{answer.digest}")
            except ValueError as exc:
                return Unresolved(str(exc), is_final=True)
            release = Release(image, answer.digest, request.spec, context.record.generation)
            return RecordedRelease(image=image, spec=request.spec, release=release.id, pin=release.pin)


def _source(context: TransitionContext) -> tuple[RecordedRelease | None, tuple[str, ...]]:
    """Return the source (None: a first deploy), and what keeps it from being clear."""
    problems = (context.fleet.active_problem,) if context.fleet.active_problem else ()
    try:
        return source_of(context.record, context.fleet), problems
    except UnclearSourceError as exc:
        return None, (*problems, str(exc))


def _not_free(context: TransitionContext, target: RecordedRelease | None) -> tuple[Wait, ...]:
    """Return what is waited for: a minimum of live hosts, and a free slot on each, also on those just gone."""
    present, strategy, until = context.fleet.present, context.record.strategy, context.record.deadline
    waits = tuple(
        Wait(busy, host.node, until)
        for host in (*present, *context.briefly_gone)
        if (busy := why_not_free(host, target, strategy)) is not None
    )
    if len(present) < strategy.min_members:
        return (Wait(f"{len(present)} live host(s), min_members is {strategy.min_members}", until=until), *waits)
    return waits


def stage_or_wait(context: TransitionContext) -> Change | Waiting:
    """Go on to ``ready`` once every host is staged; hosts that join before the deadline are waited for, too."""
    if (back := _abort_if_due(context)) is not None:
        return back
    staged, waits = _staged(context)
    if waits:
        if not context.is_late:
            return Waiting(waits)
        return begin_abort(context, f"not staged within progress_deadline: {join_reasons(waits)}")
    why = f"{len(staged)} host(s) staged{_without(context)}"
    counted = {*staged, *(host.node for host in (*context.participants, *context.lost))}
    change = context.enters(Phase.READY, "all hosts are staged", why)
    return replace(change, members=tuple(sorted(counted)), times=context.times_of(context.participants))


def commit_or_wait(context: TransitionContext) -> Change | Waiting:
    """Commit: the one transaction after which visitors may see the target."""
    record = context.record
    if (back := _abort_if_due(context)) is not None:
        return back
    members, waits = _staged(context)
    if record.strategy.waits_for_promote and not record.flags.promoted:
        if context.is_late:
            return begin_abort(context, "not promoted within promote_timeout")
        return Waiting((*waits, Wait("staged everywhere; waits for `tidegate promote`", until=record.deadline)))
    if waits:
        if not context.is_late:
            return Waiting(waits)
        return begin_abort(context, f"no longer staged everywhere: {join_reasons(waits)}")
    if not context.fleet.is_consistent:
        again = Wait("reads the fleet once more before the commit", until=record.deadline)
        return Waiting((again,), needs_consistent=True)
    why = f"{len(members)} host(s) staged{_without(context)}"
    return replace(_enter_step(context, 0, members, why), members=members)


def switch_or_wait(context: TransitionContext) -> Change | Waiting:
    """Go on once every member below the threshold has switched; lost ones are exceptions."""
    record = context.record
    if (back := _rollback_if_due(context)) is not None:
        return back
    step = tuple(host for host in context.participants if record.includes(host.node) and not context.is_excused(host))
    waits = _not_switched(context, step)
    if waits:
        if not context.is_late:
            return Waiting(waits)
        return begin_rollback(context, f"not switched within progress_deadline: {join_reasons(waits)}")
    why = f"{record.strategy.all_steps[record.step]} of the hosts switched{_without(context)}"
    if record.is_last_step:
        change = context.enters(Phase.BAKING, "all hosts have switched", why)
    elif record.phase is Phase.CANARY:
        change = context.enters(Phase.AWAITING_PROMOTION, "the canary serves", why)
    else:
        change = _enter_step(context, record.step + 1, context.fleet.members, why)
    return replace(change, times=context.times_of(step))


def _not_switched(context: TransitionContext, step: tuple[Host, ...]) -> tuple[Wait, ...]:
    record = context.record
    if not step and context.lost:
        return (Wait(f"no host of this step is alive{_without(context)}", until=record.deadline),)
    return tuple(
        Wait(reason, host.node, record.deadline)
        for host in step
        if (reason := why_not_switched(host, record)) is not None
    )


def promote_or_wait(context: TransitionContext) -> Change | Waiting:
    """Go on to the other hosts once promoted."""
    record = context.record
    if (back := _rollback_if_due(context)) is not None:
        return back
    if record.flags.promoted:
        return _enter_step(context, record.step + 1, context.fleet.members, "promoted")
    if context.is_late:
        return begin_rollback(context, "not promoted within promote_timeout")
    return Waiting((Wait("the canary serves; waits for `tidegate promote`", until=record.deadline),))


def threshold_of(generation: int, members: tuple[NodeName, ...], count: int) -> str:
    """Return the hash threshold that takes in exactly the first *count* members, and joiners by their hash."""
    return sorted(node_hash(generation, node) for node in members)[count - 1]


def _enter_step(context: TransitionContext, step: int, members: tuple[NodeName, ...], why: str) -> Change:
    record = context.record
    share = record.strategy.all_steps[step]
    is_last = step == len(record.strategy.all_steps) - 1
    threshold = ALL_HOSTS
    if not is_last:
        count = hosts_of(share, len(members))
        threshold = max(record.threshold, threshold_of(record.generation, members, count))
    phase = Phase.CANARY if step == 0 and not is_last else Phase.SWITCHING
    what = f"{share} of the hosts may switch" if not is_last else "every host may switch"
    change = context.enters(phase, what, why, step=step, threshold=threshold)
    enters_switching = phase is Phase.SWITCHING and record.phase is not Phase.SWITCHING
    return with_mirrors(change, active=record.target) if enters_switching else change


def _abort_if_due(context: TransitionContext) -> Change | None:
    """Abort what no visitor has seen: asked for, a host failed, or too many are lost."""
    record = context.record
    if record.flags.aborted:
        return begin_abort(context, record.flags.note or "aborted")
    if failures := context.failures(context.participants):
        return begin_abort(context, join_reasons(failures), failures)
    lost, total = context.lost, len(context.fleet.members)
    allowed = hosts_of(record.strategy.max_lost, total)
    if len(lost) <= allowed:
        return None
    names = join_reasons(tuple(host.node for host in lost))
    return begin_abort(context, f"{len(lost)} of {total} hosts lost ({names}), at most {allowed}")


def _rollback_if_due(context: TransitionContext) -> Change | None:
    """Begin a rollback if an operator asked for one or too many hosts failed; else return None."""
    record = context.record
    if record.flags.aborted:
        return begin_rollback(context, record.flags.note or "rolled back")
    failures = context.failures(tuple(host for host in context.participants if record.includes(host.node)))
    return begin_rollback(context, join_reasons(failures), failures) if failures else None


def _staged(context: TransitionContext) -> tuple[tuple[NodeName, ...], tuple[Wait, ...]]:
    """Return the names of the staged hosts, and what is waited for: all others but joiners that failed or are late."""
    record, members = context.record, frozenset(context.fleet.members)
    concerned = tuple(host for host in context.participants if not context.is_excused(host))
    joiners = (*context.joined, *(host for host in context.briefly_gone if host.node not in members))
    reasons = {host.node: why_not_staged(host, record) for host in (*concerned, *joiners)}
    staged = tuple(sorted(node for node, reason in reasons.items() if reason is None))
    awaited = (
        *concerned,
        *(host for host in joiners if not (_is_too_late_to_join(context) or context.is_excused(host))),
    )
    waits = tuple(
        Wait(reason, host.node, record.deadline) for host in awaited if (reason := reasons[host.node]) is not None
    )
    if len(staged) < record.strategy.min_members and not waits:
        reason = f"{len(staged)} staged host(s), min_members is {record.strategy.min_members}"
        return staged, (Wait(reason, until=record.deadline),)
    return staged, waits


def _is_too_late_to_join(context: TransitionContext) -> bool:
    """Whether joiners had their time: that of staging, also where the phase may wait for ``promote`` for longer."""
    record = context.record
    assert record.since is not None
    return context.is_late or context.now >= record.since + record.strategy.progress_deadline


def _without(context: TransitionContext) -> str:
    """Name the lost hosts, as the end of a reason; empty when there are none."""
    return f", without {join_reasons(tuple(host.node for host in context.lost))}" if context.lost else ""

"""The phases from a request to the last host that has switched."""

from dataclasses import dataclass, replace

from agent.core.model.names import NodeName, parse_reference
from agent.core.model.record import Phase, RecordedRelease, order_of
from agent.core.model.release import Release
from agent.core.rollout.barrier import Wait, not_free, not_staged, not_switched
from agent.core.rollout.change import Change
from agent.core.rollout.decision import Request
from agent.core.rollout.fleet import Host, Resolution
from agent.core.rollout.phases_ending import begin_abort, begin_rollback
from agent.core.rollout.source import UnclearSourceError, source_of
from agent.core.rollout.strategy import hosts_of
from agent.core.rollout.transition import Turn, Waiting, ended, in_words, with_mirrors

ALL_HOSTS = "f" * 64


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Why the digest of a request's image is not known."""

    reason: str
    is_final: bool = False
    """There is no such image: asking again would not help."""


def start_or_wait(turn: Turn) -> Change | Waiting:
    """Begin staging once the image is resolved, the source clear and a slot free on every live host."""
    record = turn.record
    if record.flags.aborted:
        return ended(turn, Phase.ABORTED, "aborted", record.flags.note or "aborted before it began")
    if record.request is None:
        return ended(turn, Phase.ABORTED, "aborted", "the record holds no request")
    resolved = _target(turn, record.request)
    target = resolved if isinstance(resolved, RecordedRelease) else None
    source, unclear = _source(turn)
    if target is not None and source is not None and source.release == target.release:
        return ended(turn, Phase.ABORTED, "nothing to do", f"{target.image} is what serves already", target=target)
    if isinstance(resolved, Unresolved) and resolved.is_final:
        return ended(turn, Phase.ABORTED, "aborted", resolved.reason)
    unknown = (resolved.reason,) if isinstance(resolved, Unresolved) else ()
    waits = (*(Wait(reason, until=record.deadline) for reason in (*unknown, *unclear)), *_not_free(turn, target))
    if waits and turn.is_late:
        return ended(turn, Phase.ABORTED, "aborted", f"not begun in time: {in_words(waits)}")
    if waits or target is None:
        return Waiting(waits)
    members = tuple(host.node for host in turn.fleet.present)
    change = turn.enters(Phase.STAGING, "staging began", f"on {len(members)} host(s)", source=source, target=target)
    return replace(with_mirrors(change, stage=target), members=members, checks_active=True)


def _target(turn: Turn, request: Request) -> RecordedRelease | Unresolved:
    """Return the target once the registry answered."""
    match turn.fleet.resolution:
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
            release = Release(image, answer.digest, request.spec, turn.record.generation)
            return RecordedRelease(image=image, spec=request.spec, release=release.id, pin=release.pin)


def _source(turn: Turn) -> tuple[RecordedRelease | None, tuple[str, ...]]:
    """Return the source (None: a first deploy), and what keeps it from being clear."""
    problems = (turn.fleet.active_problem,) if turn.fleet.active_problem else ()
    try:
        return source_of(turn.record, turn.fleet), problems
    except UnclearSourceError as exc:
        return None, (*problems, str(exc))


def _not_free(turn: Turn, target: RecordedRelease | None) -> tuple[Wait, ...]:
    """Return what is waited for: a minimum of live hosts, and a free slot on each, also on those just gone."""
    present, strategy, until = turn.fleet.present, turn.record.strategy, turn.record.deadline
    waits = tuple(
        Wait(busy, host.node, until)
        for host in (*present, *turn.missed)
        if (busy := not_free(host, target, strategy)) is not None
    )
    if len(present) < strategy.min_members:
        return (Wait(f"{len(present)} live host(s), at least {strategy.min_members} wanted", until=until), *waits)
    return waits


def stage_or_wait(turn: Turn) -> Change | Waiting:
    """Go on to ``ready`` once every host is staged; joiners count as long as they come in time."""
    if (back := _ends_early(turn)) is not None:
        return back
    staged, waits = _staged(turn)
    if waits:
        if not turn.is_late:
            return Waiting(waits)
        return begin_abort(turn, f"not staged within progress_deadline: {in_words(waits)}")
    why = f"{len(staged)} host(s) staged{_without(turn)}"
    counted = {*staged, *(host.node for host in (*turn.concerned, *turn.lost))}
    change = turn.enters(Phase.READY, "all hosts are staged", why)
    return replace(change, members=tuple(sorted(counted)), times=turn.times_of(turn.concerned))


def commit_or_wait(turn: Turn) -> Change | Waiting:
    """Commit: the one transaction after which visitors may see the target."""
    record = turn.record
    if (back := _ends_early(turn)) is not None:
        return back
    members, waits = _staged(turn)
    if record.strategy.waits_for_promote and not record.flags.promoted:
        if turn.is_late:
            return begin_abort(turn, "not promoted within promote_timeout")
        return Waiting((*waits, Wait("staged everywhere; waits for `tidegate promote`", until=record.deadline)))
    if waits:
        if not turn.is_late:
            return Waiting(waits)
        return begin_abort(turn, f"no longer staged everywhere: {in_words(waits)}")
    if not turn.fleet.is_consistent:
        again = Wait("reads the fleet once more before the commit", until=record.deadline)
        return Waiting((again,), needs_consistent=True)
    why = f"{len(members)} host(s) staged{_without(turn)}"
    return replace(_enter_step(turn, 0, members, why), members=members)


def switch_or_wait(turn: Turn) -> Change | Waiting:
    """Go on once every member below the threshold has switched; lost ones are exceptions."""
    record = turn.record
    if (back := _goes_back(turn)) is not None:
        return back
    step = tuple(host for host in turn.concerned if record.includes(host.node) and not turn.is_excused(host))
    waits = _not_switched(turn, step)
    if waits:
        if not turn.is_late:
            return Waiting(waits)
        return begin_rollback(turn, f"not switched within progress_deadline: {in_words(waits)}")
    why = f"{record.strategy.all_steps[record.step]} of the hosts switched{_without(turn)}"
    if record.is_last_step:
        change = turn.enters(Phase.BAKING, "all hosts have switched", why)
    elif record.phase is Phase.CANARY:
        change = turn.enters(Phase.AWAITING_PROMOTION, "the canary serves", why)
    else:
        change = _enter_step(turn, record.step + 1, turn.fleet.members, why)
    return replace(change, times=turn.times_of(step))


def _not_switched(turn: Turn, step: tuple[Host, ...]) -> tuple[Wait, ...]:
    record = turn.record
    if not step and turn.lost:
        return (Wait(f"no host of this step is seen{_without(turn)}", until=record.deadline),)
    return tuple(
        Wait(reason, host.node, record.deadline) for host in step if (reason := not_switched(host, record)) is not None
    )


def promote_or_wait(turn: Turn) -> Change | Waiting:
    """Go on to the other hosts once promoted."""
    record = turn.record
    if (back := _goes_back(turn)) is not None:
        return back
    if record.flags.promoted:
        return _enter_step(turn, record.step + 1, turn.fleet.members, "promoted")
    if turn.is_late:
        return begin_rollback(turn, "not promoted within promote_timeout")
    return Waiting((Wait("the canary serves; waits for `tidegate promote`", until=record.deadline),))


def threshold_of(generation: int, members: tuple[NodeName, ...], count: int) -> str:
    """Return the hash threshold that takes in exactly the first *count* members, and joiners by their hash."""
    return sorted(order_of(generation, node) for node in members)[count - 1]


def _enter_step(turn: Turn, step: int, members: tuple[NodeName, ...], why: str) -> Change:
    record = turn.record
    share = record.strategy.all_steps[step]
    is_last = step == len(record.strategy.all_steps) - 1
    threshold = ALL_HOSTS
    if not is_last:
        count = hosts_of(share, len(members))
        threshold = max(record.threshold, threshold_of(record.generation, members, count))
    phase = Phase.CANARY if step == 0 and not is_last else Phase.SWITCHING
    what = f"{share} of the hosts may switch" if not is_last else "every host may switch"
    change = turn.enters(phase, what, why, step=step, threshold=threshold)
    enters_switching = phase is Phase.SWITCHING and record.phase is not Phase.SWITCHING
    return with_mirrors(change, active=record.target) if enters_switching else change


def _ends_early(turn: Turn) -> Change | None:
    """Abort what no visitor has seen: asked for, a host failed, or too many are lost."""
    record = turn.record
    if record.flags.aborted:
        return begin_abort(turn, record.flags.note or "aborted")
    if failures := turn.failures(turn.concerned):
        return begin_abort(turn, in_words(failures), failures)
    lost, total = turn.lost, len(turn.fleet.members)
    allowed = hosts_of(record.strategy.max_lost, total)
    if len(lost) <= allowed:
        return None
    names = in_words(tuple(host.node for host in lost))
    return begin_abort(turn, f"{len(lost)} of {total} hosts lost ({names}), at most {allowed}")


def _goes_back(turn: Turn) -> Change | None:
    """Roll back what visitors have seen: asked for, or a host failed."""
    record = turn.record
    if record.flags.aborted:
        return begin_rollback(turn, record.flags.note or "rolled back")
    failures = turn.failures(tuple(host for host in turn.concerned if record.includes(host.node)))
    return begin_rollback(turn, in_words(failures), failures) if failures else None


def _staged(turn: Turn) -> tuple[tuple[NodeName, ...], tuple[Wait, ...]]:
    """Return the names of the staged hosts, and what is waited for: all others but joiners that failed or are late."""
    record, members = turn.record, frozenset(turn.fleet.members)
    concerned = tuple(host for host in turn.concerned if not turn.is_excused(host))
    joiners = (*turn.joined, *(host for host in turn.missed if host.node not in members))
    reasons = {host.node: not_staged(host, record) for host in (*concerned, *joiners)}
    staged = tuple(sorted(node for node, reason in reasons.items() if reason is None))
    awaited = (*concerned, *(host for host in joiners if not (_is_too_late_to_join(turn) or turn.is_excused(host))))
    waits = tuple(
        Wait(reason, host.node, record.deadline) for host in awaited if (reason := reasons[host.node]) is not None
    )
    if len(staged) < record.strategy.min_members and not waits:
        reason = f"{len(staged)} staged host(s), at least {record.strategy.min_members} wanted"
        return staged, (Wait(reason, until=record.deadline),)
    return staged, waits


def _is_too_late_to_join(turn: Turn) -> bool:
    """Whether joiners had their time: that of staging, also where the phase may wait for ``promote`` for longer."""
    record = turn.record
    assert record.since is not None
    return turn.is_late or turn.now >= record.since + record.strategy.progress_deadline


def _without(turn: Turn) -> str:
    """Name the lost hosts, as the end of a reason; empty when there are none."""
    return f", without {in_words(tuple(host.node for host in turn.lost))}" if turn.lost else ""

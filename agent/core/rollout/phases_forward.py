"""The way there: from a request to the last host that has switched."""

from dataclasses import replace

from agent.core.model.names import NodeName, parse_reference
from agent.core.model.record import Phase, RecordedRelease, order_of
from agent.core.model.release import Release
from agent.core.rollout.barrier import not_free, not_staged, not_switched
from agent.core.rollout.change import Change
from agent.core.rollout.decision import Request
from agent.core.rollout.fleet import Host, Resolution
from agent.core.rollout.phases_ending import begin_abort, begin_rollback
from agent.core.rollout.source import UnclearSourceError, source_of
from agent.core.rollout.strategy import hosts_of
from agent.core.rollout.transition import Turn, ended, in_words, with_mirrors

ALL_HOSTS = "f" * 64


def start_or_wait(turn: Turn) -> Change | None:
    """Begin staging once the image is resolved, the source clear and a slot free on every live host."""
    record, fleet = turn.record, turn.fleet
    if record.flags.aborted:
        return ended(turn, Phase.ABORTED, "aborted", record.flags.note or "aborted before it began")
    if record.request is None:
        return ended(turn, Phase.ABORTED, "aborted", "the record holds no request")
    target, problem = _target(turn, record.request)
    if fleet.active_problem:
        turn.wait(fleet.active_problem, until=record.deadline)
    source: RecordedRelease | None = None
    try:
        source = source_of(record, fleet)
    except UnclearSourceError as exc:
        turn.wait(str(exc), until=record.deadline)
    if target is not None and source is not None and source.release == target.release:
        return ended(turn, Phase.ABORTED, "nothing to do", f"{target.image} is what serves already", target=target)
    members = _free_hosts(turn, target)
    if problem is not None or (turn.waits and turn.is_late):
        why = problem or f"not begun in time: {in_words(tuple(turn.waits))}"
        return ended(turn, Phase.ABORTED, "aborted", why)
    if turn.waits or target is None:
        return None
    change = turn.enters(Phase.STAGING, "staging began", f"on {len(members)} host(s)", source=source, target=target)
    return replace(with_mirrors(change, stage=target), members=members, checks_active=True)


def _target(turn: Turn, request: Request) -> tuple[RecordedRelease | None, str | None]:
    """Return the target once the registry answered, and what makes it impossible."""
    match turn.fleet.resolution:
        case None:
            turn.wait(f"asks the registry for the digest of {request.image}", until=turn.record.deadline)
            return None, None
        case Resolution(digest=None, error=error, is_final=is_final):
            turn.wait(f"{request.image}: {error}", until=turn.record.deadline)
            return None, f"{request.image}: {error}" if is_final else None
        case answer:
            assert answer.digest is not None
            try:
                image = parse_reference(f"{request.image.partition('@')[0]}@{answer.digest}")
            except ValueError as exc:
                return None, str(exc)
            release = Release(image, answer.digest, request.spec, turn.record.generation)
            return RecordedRelease(image=image, spec=request.spec, release=release.id, pin=release.pin), None


def _free_hosts(turn: Turn, target: RecordedRelease | None) -> tuple[NodeName, ...]:
    """Return the live hosts; those without a free slot or just gone, or too few of them, are waited for."""
    present, strategy = turn.fleet.present, turn.record.strategy
    if len(present) < strategy.min_members:
        reason = f"{len(present)} live host(s), at least {strategy.min_members} wanted"
        turn.wait(reason, until=turn.record.deadline)
    for host in (*present, *turn.missed):
        if (busy := not_free(host, target, strategy)) is not None:
            turn.wait(busy, node=host.node, until=turn.record.deadline)
    return tuple(host.node for host in present)


def stage_or_wait(turn: Turn) -> Change | None:
    """Go on to ``ready`` once every host is staged; joiners count as long as they come in time."""
    if (back := _ends_early(turn)) is not None:
        return back
    staged = _staged(turn)
    if turn.waits:
        if not turn.is_late:
            return None
        return begin_abort(turn, f"not staged within progress_deadline: {in_words(tuple(turn.waits))}")
    why = f"{len(staged)} host(s) staged{_without(turn)}"
    counted = {*staged, *(host.node for host in (*turn.concerned, *turn.lost))}
    change = turn.enters(Phase.READY, "all hosts are staged", why)
    return replace(change, members=tuple(sorted(counted)), times=turn.times_of(turn.concerned))


def commit_or_wait(turn: Turn) -> Change | None:
    """Commit: the one transaction after which visitors may see the target."""
    record = turn.record
    if (back := _ends_early(turn)) is not None:
        return back
    members = _staged(turn)
    if record.strategy.waits_for_promote and not record.flags.promoted:
        if turn.is_late:
            return begin_abort(turn, "not promoted within promote_timeout")
        turn.wait("staged everywhere; waits for `tidegate promote`", until=record.deadline)
        return None
    if turn.waits:
        if not turn.is_late:
            return None
        return begin_abort(turn, f"no longer staged everywhere: {in_words(tuple(turn.waits))}")
    if not turn.fleet.is_consistent:
        turn.needs_consistent = True
        turn.wait("reads the fleet once more before the commit", until=record.deadline)
        return None
    why = f"{len(members)} host(s) staged{_without(turn)}"
    return replace(_enter_step(turn, 0, members, why), members=members)


def switch_or_wait(turn: Turn) -> Change | None:
    """Go on once every member below the threshold has switched; lost ones are exceptions."""
    record = turn.record
    if (back := _goes_back(turn)) is not None:
        return back
    step = tuple(host for host in turn.concerned if record.includes(host.node) and not turn.is_excused(host))
    for host in step:
        if (reason := not_switched(host, record)) is not None:
            turn.wait(reason, node=host.node, until=record.deadline)
    if not step and turn.lost:
        turn.wait(f"no host of this step is seen{_without(turn)}", until=record.deadline)
    if turn.waits:
        if not turn.is_late:
            return None
        return begin_rollback(turn, f"not switched within progress_deadline: {in_words(tuple(turn.waits))}")
    why = f"{record.strategy.all_steps[record.step]} of the hosts switched{_without(turn)}"
    if record.is_last_step:
        change = turn.enters(Phase.BAKING, "all hosts have switched", why)
    elif record.phase is Phase.CANARY:
        change = turn.enters(Phase.AWAITING_PROMOTION, "the canary serves", why)
    else:
        change = _enter_step(turn, record.step + 1, turn.fleet.members, why)
    return replace(change, times=turn.times_of(step))


def promote_or_wait(turn: Turn) -> Change | None:
    """Go on to the other hosts once promoted."""
    record = turn.record
    if (back := _goes_back(turn)) is not None:
        return back
    if record.flags.promoted:
        return _enter_step(turn, record.step + 1, turn.fleet.members, "promoted")
    if turn.is_late:
        return begin_rollback(turn, "not promoted within promote_timeout")
    turn.wait("the canary serves; waits for `tidegate promote`", until=record.deadline)
    return None


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


def _staged(turn: Turn) -> tuple[NodeName, ...]:
    """Return the staged hosts by name; the others are waited for, but joiners that cannot come."""
    record, staged = turn.record, list[NodeName]()
    for host in turn.concerned:
        if not turn.is_excused(host):
            _take(turn, host, not_staged(host, record), staged)
    members = frozenset(turn.fleet.members)
    for host in (*turn.joined, *(host for host in turn.missed if host.node not in members)):
        reason = not_staged(host, record)
        if reason is None or not (_is_too_late_to_join(turn) or turn.is_excused(host)):
            _take(turn, host, reason, staged)
    if len(staged) < record.strategy.min_members and not turn.waits:
        reason = f"{len(staged)} staged host(s), at least {record.strategy.min_members} wanted"
        turn.wait(reason, until=record.deadline)
    return tuple(sorted(staged))


def _is_too_late_to_join(turn: Turn) -> bool:
    """Whether joiners had their time: that of staging, also where the phase may wait for ``promote`` for longer."""
    record = turn.record
    assert record.since is not None
    return turn.is_late or turn.now >= record.since + record.strategy.progress_deadline


def _take(turn: Turn, host: Host, reason: str | None, staged: list[NodeName]) -> None:
    if reason is None:
        staged.append(host.node)
    else:
        turn.wait(reason, node=host.node, until=turn.record.deadline)


def _without(turn: Turn) -> str:
    """Name the hosts it went on without."""
    return f", without {in_words(tuple(host.node for host in turn.lost))}" if turn.lost else ""

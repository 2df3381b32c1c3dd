"""The end of a rollout: baking and retiring after success, and the two ways back."""

from dataclasses import replace

from agent.core.model.durations import format_duration
from agent.core.model.record import Phase, RecordedRelease
from agent.core.rollout.barrier import NodeFailure, cannot_go_back, not_back, still_holds, still_uses
from agent.core.rollout.change import Change
from agent.core.rollout.fleet import Host
from agent.core.rollout.transition import Turn, ended, in_words, with_mirrors


def bake_or_wait(turn: Turn) -> Change | None:
    """Keep the source warm through the bake, then until nobody in the fleet uses it, or ``drain_timeout``."""
    record = turn.record
    assert record.since is not None
    if record.flags.aborted:
        return begin_rollback(turn, record.flags.note or "rolled back")
    if failures := turn.failures(turn.concerned):
        return begin_rollback(turn, in_words(failures), failures)
    if turn.is_late:
        return turn.enters(Phase.RETIRING, "retiring began", "drain_timeout is over")
    bake_left = record.since + record.strategy.bake_time - turn.now
    if bake_left > 0:
        reason = f"bakes: the way back stays warm for {format_duration(bake_left)} more"
        turn.wait(reason, until=record.since + record.strategy.bake_time)
    visited = turn.visited
    if not visited:
        turn.wait("no host is seen that could tell who uses the source", until=record.deadline)
    for host in visited:
        if (use := still_uses(host, record)) is not None:
            turn.wait(f"source in use: {use}", node=host.node, until=record.deadline)
    if turn.waits:
        return None
    idle = format_duration(record.strategy.drain_idle)
    return turn.enters(Phase.RETIRING, "retiring began", f"nobody has used the source for {idle}")


def retire_or_wait(turn: Turn) -> Change | None:
    """End when the source is gone everywhere; what is left at the deadline is listed."""
    record = turn.record
    for host in _holders(turn, record.source):
        if (reason := still_holds(host, record, record.source)) is not None:
            turn.wait(reason, node=host.node, until=record.deadline)
    if turn.waits and not turn.is_late:
        return None
    rest = f"left behind at progress_deadline: {in_words(tuple(turn.waits))}" if turn.waits else "done"
    return ended(turn, Phase.SUCCESSFUL, "ended successfully", rest)


def begin_abort(turn: Turn, why: str, failures: tuple[NodeFailure, ...] = ()) -> Change:
    """Take the target out everywhere; no visitor has seen it."""
    return _with_lines(turn.enters(Phase.ABORTING, "abort began", why), failures)


def begin_rollback(turn: Turn, why: str, failures: tuple[NodeFailure, ...] = ()) -> Change:
    """Send everybody back to the source; without one a person has to decide."""
    if turn.record.source is None:
        change = ended(
            turn, Phase.ROLLBACK_FAILED, "rollback is impossible", f"{why}; there is no release to go back to"
        )
        return _with_lines(with_mirrors(change, active=turn.record.target), failures)
    change = turn.enters(Phase.ROLLING_BACK, "rollback began", why)
    return _with_lines(with_mirrors(change, active=turn.record.source), failures)


def abort_or_wait(turn: Turn) -> Change | None:
    """End when the target is gone everywhere, or at the deadline."""
    record = turn.record
    for host in _holders(turn, record.target):
        if (reason := still_holds(host, record, record.target)) is not None:
            turn.wait(reason, node=host.node, until=record.deadline)
    if turn.waits and not turn.is_late:
        return None
    rest = f"; left behind: {in_words(tuple(turn.waits))}" if turn.waits else ""
    return ended(turn, Phase.ABORTED, "aborted", record.why + rest)


def go_back_or_wait(turn: Turn) -> Change | None:
    """End when the source serves everywhere; where a live host cannot, a person has to decide."""
    record = turn.record
    stuck: list[NodeFailure] = []
    hosts = _holders(turn, record.target)
    if not hosts and turn.lost:
        turn.wait(f"no host is seen: {in_words(tuple(host.node for host in turn.lost))} lost", until=record.deadline)
    for host in hosts:
        if (failure := cannot_go_back(host, record)) is not None:
            stuck.append(failure)
        elif (reason := not_back(host, record)) is not None:
            turn.wait(reason, node=host.node, until=record.deadline)
    if turn.waits and not turn.is_late:
        return None
    if not stuck and (not turn.waits or not hosts):
        rest = f"; {in_words(tuple(turn.waits))}" if turn.waits else ""
        return ended(turn, Phase.ROLLED_BACK, "rolled back", record.why + rest)
    why = f"{record.why}; not back: {in_words((*stuck, *turn.waits))}"
    return _with_lines(ended(turn, Phase.ROLLBACK_FAILED, "rollback failed", why), tuple(stuck))


def _holders(turn: Turn, release: RecordedRelease | None) -> tuple[Host, ...]:
    """Return members that are not lost, and those of the joined that have *release*."""
    if release is None:
        return ()
    return (*turn.concerned, *(host for host in turn.joined if host.slot_of(release) is not None))


def _with_lines(change: Change, failures: tuple[NodeFailure, ...]) -> Change:
    lines = next((failure.lines for failure in failures if failure.lines), ())
    return replace(change, lines=lines)

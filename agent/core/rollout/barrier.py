"""
The questions a rollout asks of one host. Each answer is None (nothing to wait for) or the reason to wait.

Unknown is never an answer (S12): a host without a live report is waited for.
"""

from dataclasses import dataclass

from agent.core.model.durations import format_duration
from agent.core.model.names import NodeName
from agent.core.model.record import RecordedRelease
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.states import AdminState, SlotPhase
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Host
from agent.core.rollout.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Wait:
    """Something a rollout waits for."""

    reason: str
    node: NodeName | None = None
    """None: it concerns no single host."""
    until: float | None = None
    """When the wait ends in any case, in the coordinator's Unix seconds."""

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}" if self.node else self.reason


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """Why a host cannot take or keep the target."""

    node: NodeName
    reason: str
    lines: tuple[str, ...] = ()
    """Last log lines of its container."""

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}"


def unseen(host: Host, lost_after_s: float) -> str | None:
    """Say why nothing is known of a host now."""
    if host.gone_s is not None:
        known = "" if host.gone_s == float("inf") else f" for {format_duration(host.gone_s)}"
        return f"not seen{known}; counts as lost after {format_duration(lost_after_s)}"
    return "its agent has not reported yet" if host.now is None else None


def why_not_free(host: Host, target: RecordedRelease | None, strategy: Strategy) -> str | None:
    """Say why a host has no slot for *target* (None: not known yet); an idle slot that holds the target is free."""
    if (missing := unseen(host, strategy.lost_after)) is not None:
        return missing
    report, held = host.now, host.slot_of(target)
    assert report is not None
    if (left := _old_workers(report)) is not None:
        return left
    if any(slot.phase is SlotPhase.EMPTY and slot.state is AdminState.MAINT for slot in report.slots.values()):
        return None
    if held is not None and held[1].state is AdminState.DRAIN and _in_use(held[1], strategy.drain_idle) is None:
        return None
    busy = next((item for item in report.slots.items() if item[1].state is not AdminState.READY), None)
    if busy is None:
        return "no slot is free"
    name, slot = busy
    return f"slot {name} busy: {_slot_text(slot)}"


def why_not_staged(host: Host, record: Decision) -> str | None:
    """Say why a host is not staged for this generation."""
    if (missing := unseen(host, record.strategy.lost_after)) is not None:
        return missing
    report, target = host.now, record.target
    assert report is not None
    assert target is not None
    if (other := _not_read(report, record)) is not None:
        return other
    held = host.slot_of(target)
    if held is None:
        return _busy_text(report)
    slot = held[1]
    if not slot.is_staged:
        return _slot_text(slot)
    digest = target.image.partition("@")[2]
    return None if slot.digest == digest else f"runs digest {slot.digest[:19]}, wanted {digest[:19]}"


def why_not_switched(host: Host, record: Decision) -> str | None:
    """Say why a host does not give its new visitors the target."""
    if (missing := unseen(host, record.strategy.lost_after)) is not None:
        return missing
    held = host.slot_of(record.target)
    if held is not None and held[1].is_up:
        return None
    assert host.now is not None
    return f"has not switched: {host.now.summary}"


def why_not_rolled_back(host: Host, record: Decision) -> str | None:
    """Say why a host does not give all visitors the source again."""
    if (missing := unseen(host, record.strategy.lost_after)) is not None:
        return missing
    assert host.now is not None
    source, target = host.slot_of(record.source), host.slot_of(record.target)
    if source is None or not source[1].is_up:
        return f"does not serve the source again: {host.now.summary}"
    if target is not None and target[1].state is not AdminState.MAINT:
        return f"visitors may still reach the target: {host.now.summary}"
    return None


def still_holds(host: Host, record: Decision, release: RecordedRelease | None) -> str | None:
    """Say where a host still has *release*."""
    if (missing := unseen(host, record.strategy.lost_after)) is not None:
        return missing
    report = host.now
    assert report is not None
    if (held := host.slot_of(release)) is not None:
        return f"slot {held[0]} {_slot_text(held[1])}"
    return _not_read(report, record)


def still_uses(host: Host, record: Decision) -> str | None:
    """Say what shows that visitors of a host still use the source."""
    if (missing := unseen(host, record.strategy.lost_after)) is not None:
        return missing
    report, held = host.now, host.slot_of(record.source)
    assert report is not None
    if (left := _old_workers(report)) is not None:
        return left
    return None if held is None else _in_use(held[1], record.strategy.drain_idle)


def failed(host: Host, record: Decision) -> NodeFailure | None:
    """Say why a live host has failed: it could not stage the target, or serves it unwell. None: it has not failed."""
    report, target = host.now, record.target
    if report is None or target is None:
        return None
    known = report.failures.get(f"{target.release}#{record.generation}")
    if known is not None and known.is_final:
        return NodeFailure(host.node, known.reason, known.lines)
    serving = host.serving
    if serving is None or serving.release != target.release or serving.is_up:
        return None
    if host.unwell_s < max(record.strategy.min_healthy_time, 1.0):
        return None
    return NodeFailure(host.node, f"{serving.phase}: {serving.reason or report.summary}", serving.lines)


def cannot_roll_back(host: Host, record: Decision) -> NodeFailure | None:
    """Say why a live host cannot serve the source again."""
    report, source = host.now, record.source
    if report is None or source is None:
        return None
    known = report.failures.get(f"{source.release}#{record.generation}")
    return NodeFailure(host.node, known.reason, known.lines) if known is not None and known.is_final else None


def _in_use(slot: SlotReport, idle_s: float) -> str | None:
    if slot.open_requests is None or slot.last_request_age_s is None:
        return None if slot.phase is SlotPhase.EMPTY else f"{slot.phase}: its open requests are not known"
    if slot.open_requests:
        return f"{slot.open_requests} open request(s)"
    age = slot.last_request_age_s
    return None if age >= idle_s else f"last request {format_duration(age)} ago, idle after {format_duration(idle_s)}"


def _old_workers(report: NodeReport) -> str | None:
    if report.old_workers is None:
        return "HAProxy's master socket does not say whether old workers live"
    return f"{report.old_workers} old HAProxy worker(s) still serve open connections" if report.old_workers else None


def _not_read(report: NodeReport, record: Decision) -> str | None:
    behind = f"has not read rollout {record.generation} yet (acted on {report.generation})"
    return behind if report.generation < record.generation else None


def _slot_text(slot: SlotReport) -> str:
    return f"{slot.phase}: {slot.reason}" if slot.reason else slot.phase


def _busy_text(report: NodeReport) -> str:
    """Say what a host does that has no container of the target yet."""
    texts = [slot.reason for slot in report.slots.values() if slot.state is not AdminState.READY and slot.reason]
    texts += [known.reason for known in report.failures.values()]
    return "; ".join(texts) or "; ".join(report.notes) or report.summary

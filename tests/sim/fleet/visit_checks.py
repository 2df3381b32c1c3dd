"""
Watches what hosts give and visitors get, while it happens: S2, S7, S9, S14.

A visitor may be moved by a rollback, by the end of the source (judged when it is retired), and by what happened to the
host or container that had served: `Node.troubled_until` says until when a host counts as faulty.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.core.host.actions import Action, Switch
from agent.core.host.observed import Container
from agent.core.model.record import Phase, RolloutRecord, read_record
from agent.core.rollout.decision import Decision
from tests.sim.fleet.node import Node
from tests.sim.fleet.record_monitor import COMMITTED, TAKEN_BACK, RecordMonitor, Rollout
from tests.sim.fleet.visitors import Visitor

REACTION_S = 8.0
"""From a visitor's request to the coordinator's decision: look 1 s, write 1 s, read 1 s, and their latencies."""


@dataclass(slots=True)
class Use:
    """When a release was in use by visitors of hosts that could tell."""

    last: float = float("-inf")
    began: float = float("-inf")
    """First use after the last silence of `drain_idle`."""


@dataclass(slots=True)
class VisitChecks:
    """Judges each switch and each visit."""

    breach: Callable[[str, str], None]
    record_monitor: RecordMonitor
    visit_idle_s: float
    now: Callable[[], float]
    is_counted: Callable[[str], bool]
    """Whether a host is up and can read Consul."""
    clock_skew_s: float = 0.0
    uses: dict[str, Use] = field(default_factory=dict)
    moved: Counter[str] = field(default_factory=Counter)
    by_hand_at: float = float("-inf")
    """When somebody last changed what is active by hand."""
    _serves: dict[str, str] = field(default_factory=dict)

    def took(self, node: Node, action: Action, occupant: Container) -> None:
        """S2: new visitors of *node* begin to get *occupant*: by the record it acts on?"""
        if isinstance(action, Switch) and action.restore:
            return
        known = node.agent.baseline.rollout
        record = read_record(known.value) if known is not None else None
        if not self._may_take(record, node, occupant):
            phase = record.phase if record else "no record"
            self.breach("S2", f"{node.name} gives new visitors {occupant.reference} ({phase}): {action}")

    def _may_take(self, record: RolloutRecord | None, node: Node, occupant: Container) -> bool:
        if record is None or record.phase.is_terminal or record.phase is Phase.PENDING:
            final = record.final if record is not None else None
            by_hand = occupant.reference in self.record_monitor.ever or occupant.release in self.record_monitor.ever
            return by_hand or (final is not None and final.release == occupant.release)
        if record.target is not None and occupant.release == record.target.release:
            in_step = record.phase in (Phase.BAKING, Phase.RETIRING) or record.includes(node.name)
            is_known = (known := self.record_monitor.rollouts.get(record.generation)) is not None and (
                known.committed_at is not None or known.is_forked
            )
            return record.phase in COMMITTED and in_step and is_known
        return record.source is not None and occupant.release == record.source.release

    def served(self, node: Node) -> None:
        """S7: at most two releases are served by hosts that can read Consul."""
        occupant = node.serving() if node.link.is_open and node.is_agent_up and not self._is_faulty(node) else None
        release = occupant.release if occupant is not None else ""
        if self._serves.get(node.name, "") == release:
            return
        self._serves[node.name] = release
        found = {name for where, name in self._serves.items() if name and self.is_counted(where)}
        if len(found) > 2:
            self.breach("S7", f"{len(found)} releases are served: {sorted(found)}")

    def visit(self, visitor: Visitor, node: Node, occupant: Container, ends: float) -> None:
        """S9 and S14: one answered request."""
        node.monitor.visited.add(occupant.id)
        if occupant.release not in self.record_monitor.ever and occupant.reference not in self.record_monitor.ever:
            self.breach("S9", f"{visitor.name} got {occupant.reference} on {node.name}: never committed")
        held = visitor.holds(self.now(), self.visit_idle_s)
        if held is not None and held.container.release != occupant.release:
            why = self._excuse(node, held.container, held.at)
            self.moved[why or "unasked"] += 1
            if not why:
                self.breach(
                    "S14",
                    f"{visitor.name} was moved from {held.container.reference} ({held.node}) to {occupant.reference} "
                    f"on {node.name}, {self.now() - held.at:.1f}s after the request before",
                )
        if not self._is_faulty(node):
            self._use(occupant.release, ends)

    def _use(self, release: str, ends: float) -> None:
        use, now = self.uses.setdefault(release, Use()), self.now()
        idle = self.record_monitor.current.strategy.drain_idle if self.record_monitor.current else 60.0
        if now - use.last >= idle - 0.5:
            use.began = now
        use.last = max(use.last, ends)

    def _excuse(self, node: Node, held: Container, at: float) -> str:
        """Say why a visitor may be moved; empty when nothing excuses it."""
        for rollout in self.record_monitor.rollouts.values():
            record = rollout.record
            if record.target is not None and record.target.release == held.release and record.phase in TAKEN_BACK:
                return "rollback"
            source = record.source
            if source is not None and source.release == held.release and rollout.retired_at is not None:
                return "retired"
            if rollout.is_forked and self.now() - at < 60.0 + self.visit_idle_s:
                return "restored"
        if self._is_faulty(node) or held.id in node.monitor.excused:
            return "fault"
        if self.now() - self.by_hand_at < self.visit_idle_s:
            return "by hand"
        if held.release in node.unfit:
            return "failed"
        return ""

    def _is_faulty(self, node: Node) -> bool:
        return node.troubled_until > self.now()

    def in_use(self, record: Decision, rollout: Rollout) -> str:
        """Say who still used the source as it is retired; empty when nobody did, or `drain_timeout` is over."""
        if record.source is None:
            return ""
        now, timings = self.now(), record.strategy
        since = now - (rollout.baking_at or now)
        if since >= timings.drain_timeout - 2 * self.clock_skew_s - 0.5:
            return ""
        use = self.uses.get(record.source.release, Use())
        if now - use.last >= timings.drain_idle - 0.5 or now - use.began <= REACTION_S:
            return ""
        return f"last used {now - use.last:.1f}s ago (in use for {now - use.began:.1f}s), {since:.1f}s after the switch"

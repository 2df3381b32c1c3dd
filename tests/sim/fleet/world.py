"""The fleet together: hosts, coordinators, operators, visitors and who watches them, in one virtual time."""

import json
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from agent.core.model import keys
from agent.core.model.app import App, DeployTimings
from agent.core.model.names import NodeName
from agent.core.model.record import Phase
from agent.core.model.states import AdminState
from agent.core.rollout.decision import Decision
from tests.sim.consul.link import Link
from tests.sim.consul.servers import Commit, SimConsul
from tests.sim.fleet.coordinator import CoordinatorBug, SimCoordinator
from tests.sim.fleet.names import APP
from tests.sim.fleet.node import FOREVER, Node
from tests.sim.fleet.operators import CommandBug, Operator
from tests.sim.fleet.record_monitor import LOCK, RECORD, RecordMonitor, Rollout
from tests.sim.fleet.registry import SimRegistry
from tests.sim.fleet.surroundings import Surroundings
from tests.sim.fleet.visit_checks import VisitChecks
from tests.sim.fleet.visitors import Traffic
from tests.sim.host.agent import Bug
from tests.sim.world_clock import WorldClock

KNOBS = DeployTimings(
    healthy_deadline=20.0,
    min_healthy_time=1.5,
    bake_time=8.0,
    drain_timeout=60.0,
    visit_idle=40.0,
    stop_grace_period=2.0,
)
LOOK_S = 5.0
TAKEOVER_S = 45.0
"""Twice the session's TTL, the contention of its candidates, and this monitor's own interval."""
SLACK_S = 60.0


@dataclass(frozen=True, slots=True)
class FleetBug:
    """Bugs planted into the parts."""

    node: Bug = field(default_factory=Bug)
    coordinator: CoordinatorBug = field(default_factory=CoordinatorBug)
    command: CommandBug = field(default_factory=CommandBug)


@dataclass(slots=True)
class FleetWorld:
    """One fleet; everything random comes from `rng`."""

    seed: int
    bug: FleetBug = field(default_factory=FleetBug)
    traces: bool = False
    clock: WorldClock = field(default_factory=WorldClock)
    app: App = field(default_factory=lambda: App(name=APP, knobs=KNOBS))
    nodes: dict[NodeName, Node] = field(default_factory=dict)
    coordinators: list[SimCoordinator] = field(default_factory=list)
    breaches: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    faults: int = 0
    clock_skew_s: float = 0.0
    churn: int = 0
    """Hosts that came, went or rebooted."""
    on_phase: list[Callable[[Decision], None]] = field(default_factory=list)
    rng: random.Random = field(init=False)
    consul: SimConsul = field(init=False)
    registry: SimRegistry = field(init=False)
    record_monitor: RecordMonitor = field(init=False)
    visit_checks: VisitChecks = field(init=False)
    traffic: Traffic = field(init=False)
    links: list[Link] = field(default_factory=list)
    needs_adoption: bool = False
    is_over: bool = False
    """What is breached from now on is of the end of the run."""
    is_healed: bool = False
    """All faults have ended for good."""
    leaderless_since: float | None = None
    """Since when nobody leads though somebody could, and no other fault came (L4)."""
    leaderless_s: float = 0.0
    _leaderless_at: dict[int, float] = field(default_factory=dict)
    _late: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.consul = SimConsul(self.clock)
        self.registry = SimRegistry(self.rng)
        self.record_monitor = RecordMonitor(
            self.breach, self._may_write, self._may_commit, self._may_retire, self._entered
        )
        self.visit_checks = VisitChecks(
            self.breach, self.record_monitor, KNOBS.visit_idle, lambda: self.clock.now, self._is_counted
        )
        self.traffic = Traffic(
            self.clock, random.Random(self.seed + 1), KNOBS.visit_idle, self._hosts, self.visit_checks.visit
        )
        self.consul.on_commit.append(self._committed)
        self.consul.on_restore.append(self._restored)
        self.clock.after(LOOK_S, self._look)

    def link(self) -> Link:
        """Return a new way to Consul."""
        made = Link(self.consul, random.Random(self.rng.random()))
        self.links.append(made)
        return made

    def set_consul_away(self, *, is_away: bool) -> None:
        """Lose Consul's quorum or win it back."""
        self.consul.set_away(is_away=is_away)
        for link in self.links:
            link.changed()

    def add_node(self, name: str) -> Node:
        """Put up a new machine under *name*, not booted yet."""
        surroundings = Surroundings(
            self.clock,
            self.app,
            self.bug.node,
            random.Random(self.rng.random()),
            took=self.visit_checks.took,
            ticked=self._ticked,
            crashed=partial(self.breach, "crash"),
        )
        node = Node(NodeName(name), surroundings, self.link(), machine=self.rng.randrange(10**6))
        self.nodes[node.name] = node
        return node

    def add_coordinator(self, name: str, link: Link | None = None, clock_skew_s: float = 0.0) -> SimCoordinator:
        """Put up a candidate."""
        candidate = SimCoordinator(
            f"coordinator-{name}",
            self.clock,
            link or self.link(),
            random.Random(self.rng.random()),
            self.registry.digest,
            partial(self.breach, "crash"),
            self.fault_came,
            self.bug.coordinator,
            clock_skew_s,
        )
        self.coordinators.append(candidate)
        candidate.start()
        return candidate

    def fault_came(self) -> None:
        """Count the time without a leader anew: candidates have to deal with something else."""
        self.leaderless_since = None

    def operator(self, name: str) -> Operator:
        """Return somebody at a command line of their own."""
        return Operator(name, self.clock, self.link(), self.note, self.bug.command)

    def _hosts(self) -> list[Node]:
        return list(self.nodes.values())

    @property
    def live(self) -> list[Node]:
        """Hosts that are up."""
        return [node for node in self.nodes.values() if node.is_up]

    @property
    def leader(self) -> SimCoordinator | None:
        """Return who holds the lock."""
        entry = self.consul.get(LOCK)
        if entry is None or not entry.session:
            return None
        return next((each for each in self.coordinators if each.session == entry.session), None)

    def close(self) -> None:
        """End all processes."""
        self.is_over = True
        self.clock.end()

    def note(self, text: str) -> None:
        """Write a line of the trace."""
        if self.traces:
            print(f"{self.clock.now:9.3f}  {text}", flush=True)

    def breach(self, name: str, what: str) -> None:
        """Note a breach of an invariant."""
        if self.is_over:
            return
        self.note(f"BREACH {name}: {what}")
        self.breaches[name].append(f"{self.clock.now:.2f}s: {what}")

    def _committed(self, commit: Commit) -> None:
        self.record_monitor.commit(commit)

    def _entered(self, record: Decision) -> None:
        self._leaderless_at.setdefault(record.generation, self.leaderless_s)
        flags = ",".join(name for name in ("paused", "promoted", "aborted") if getattr(record.flags, name))
        self.note(f"record {record.version} {record.phase} {flags} {record.threshold[:4]}: {record.why[:150]}")
        for told in tuple(self.on_phase):
            told(record)

    def _restored(self) -> None:
        entry = self.consul.get(RECORD)
        self.record_monitor.restored(entry.value.decode() if entry else None, self.clock.now)
        self.needs_adoption = True

    def _ticked(self, node: Node) -> None:
        self.visit_checks.served(node)
        for name, found in node.monitor.breaches.items():
            for what in found:
                self.breach(name, f"{node.name}: {what}")
        node.monitor.breaches.clear()
        node.unfit.update(key.partition("#")[0] for key in node.agent.memory.failures)
        plan, record = node.agent.plan, self.record_monitor.current
        if plan is not None and self.traces and plan.actions:
            self.note(f"{node.name}: " + "; ".join(str(action) for action in plan.actions))
        if record is not None and record.phase in (Phase.STAGING, Phase.READY):
            self._note_staged(node, record)

    def _may_retire(self, record: Decision, known: Rollout) -> str:
        return self.visit_checks.in_use(record, known)

    def _is_counted(self, name: str) -> bool:
        node = self.nodes[NodeName(name)]
        return node.is_agent_up and node.link.is_open

    @staticmethod
    def _note_staged(node: Node, record: Decision) -> None:
        """Note what is truly staged on a host, by what HAProxy and Docker hold."""
        assert record.target is not None
        process = node.proxy.process
        for occupant in node.docker.containers_by_id.values():
            srv = process.servers[occupant.slot]
            fit = (
                occupant.is_running and srv.admin is AdminState.DRAIN and srv.status == "DRAIN" and srv.check == "L7OK"
            )
            if (
                occupant.release == record.target.release
                and fit
                and process.pins.get(occupant.slot) == record.target.pin
            ):
                node.staged[record.generation] = occupant.digest

    def _may_write(self, by: str, epoch: int) -> str:
        entry = self.consul.get(LOCK)
        session = self.consul.sessions.get(entry.session) if entry is not None else None
        if entry is None or session is None or session.machine != by:
            return f"the lock is held by {session.machine if session else 'nobody'}"
        held = json.loads(entry.value)["epoch"]
        return "" if held == epoch else f"its epoch is {epoch}, the lock's is {held}"

    def _may_commit(self, record: Decision) -> str:
        entry = self.consul.get(keys.members(APP, record.generation))
        members = json.loads(entry.value)["members"] if entry is not None else []
        if len(members) < record.strategy.min_members:
            return f"members {members}"
        assert record.target is not None
        digest = record.target.image.partition("@")[2]
        for name in members:
            node = self.nodes.get(NodeName(name))
            staged = node.staged.get(record.generation) if node is not None else None
            if staged != digest:
                return f"{name} had {staged}, not {digest}"
        return ""

    def _look(self) -> None:
        """L1 and L4, every few seconds."""
        self.clock.after(LOOK_S, self._look)
        leads = any(self._leads(each) for each in self.coordinators)
        if not leads:
            self.leaderless_s += LOOK_S
        able = any(self._is_able(each) for each in self.coordinators)
        if leads or not able:
            self.leaderless_since = None
        elif self.leaderless_since is None:
            self.leaderless_since = self.clock.now
        elif self.clock.now - self.leaderless_since > TAKEOVER_S:
            self.breach("L4", f"nobody leads since {self.leaderless_since:.1f}s though somebody could")
            self.leaderless_since = FOREVER
        for rollout in self.record_monitor.rollouts.values():
            self._is_in_time(rollout)

    def _is_able(self, candidate: SimCoordinator) -> bool:
        process = candidate.process
        return process.is_alive and not process.is_stalled and candidate.link.is_open

    def _leads(self, candidate: SimCoordinator) -> bool:
        entry = self.consul.get(LOCK)
        holds = entry is not None and bool(entry.session) and entry.session == candidate.session
        return holds and self._is_able(candidate) and candidate.trusts_itself

    def _is_in_time(self, rollout: Rollout) -> None:
        if rollout.ended_at is not None or rollout.is_forked or rollout.generation in self._late:
            return
        paused = rollout.paused_s
        paused += self.clock.now - rollout.paused_since if rollout.paused_since is not None else 0.0
        lost = self.leaderless_s - self._leaderless_at.get(rollout.generation, 0.0)
        bound = rollout.record.strategy.longest_s() + paused + lost + 4 * self.clock_skew_s + SLACK_S
        if self.clock.now - rollout.begun_at > bound:
            self._late.add(rollout.generation)
            what = (
                f"rollout {rollout.generation} is {rollout.record.phase} after {self.clock.now - rollout.begun_at:.0f}s"
            )
            self.breach("L1", what)
            if self.churn:
                self.breach("L3", what)

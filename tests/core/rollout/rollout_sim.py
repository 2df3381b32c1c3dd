"""
Run a rollout to its end on a clock of its own: hosts that follow the record, faults, and commands.

Hosts are shapes of :mod:`fixtures`, so a simulation is about ``advance`` and the commands alone; hosts with
cores of their own, Consul and faults between them are ``tests/sim``'s.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from agent.core.model.errors import PermanentError
from agent.core.model.names import NodeName
from agent.core.model.record import Phase
from agent.core.rollout.advance import advance
from agent.core.rollout.change import Change
from agent.core.rollout.commands import abort, pause, promote, resume, roll_back
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet, Host
from agent.core.rollout.strategy import Strategy
from tests.core.rollout.fixtures import BOB, NOW, RESOLVED, A, host, keys, record

TICK_S = 5.0
QUICK = Strategy(
    lost_after=10,
    progress_deadline=30,
    promote_timeout=30,
    min_healthy_time=5,
    bake_time=10,
    drain_idle=60,
    drain_timeout=40,
    stop_grace_period=1,
)
COMMANDS = {"pause": pause, "resume": resume, "promote": promote, "abort": abort, "rollback": roll_back}
MISHAPS = ("fails", "falls ill", "is lost", "comes back", "leaves", "joins", "restarts", "stays busy", "is stuck")
Event = tuple[int, str, int]
"""Tick, command or mishap, and the number of the host it happens to."""


@dataclass(slots=True)
class SimHost:
    """One host."""

    name: str
    progress: int = 0
    """Ticks since it began to stage."""
    odd: set[str] = field(default_factory=set)
    """What has happened to it."""
    gone_s: float | None = None
    ill_s: float = 0.0

    def tick(self, given: Decision) -> None:
        """Let a tick pass."""
        self.gone_s = None if self.gone_s is None else self.gone_s + TICK_S
        self.progress = self.progress + 1 if given.phase is not Phase.PENDING else 0
        self.odd.discard("restarts")
        self.ill_s = self.ill_s + TICK_S if "falls ill" in self.odd else 0.0

    def shape(self, given: Decision) -> str:
        """Return what it shows; without a source there is nothing to serve beside the target."""
        shape = self._shape(given)
        if given.source is not None:
            return shape
        first = {"staged": "first-staged", "switched": "retired", "idle": "retired", "sick": "retired"}
        return first.get(shape, shape if shape in {"retired", "failed"} else "nothing")

    def _shape(self, given: Decision) -> str:
        node = NodeName(self.name)
        match given.phase:
            case Phase.PENDING:
                return "serves"
            case Phase.ABORTING | Phase.ABORTED:
                return "serves" if self.progress % 2 else "back"
            case Phase.ROLLING_BACK | Phase.ROLLED_BACK | Phase.ROLLBACK_FAILED:
                return "stuck" if "is stuck" in self.odd else "back"
            case Phase.RETIRING | Phase.SUCCESSFUL:
                return "idle" if "stays busy" in self.odd else "retired"
        if "fails" in self.odd:
            return "failed"
        if self.progress < 2:
            return "pulling"
        if given.phase in {Phase.STAGING, Phase.READY} or not given.includes(node):
            return "staged"
        if "falls ill" in self.odd:
            return "sick"
        return "streaming" if "stays busy" in self.odd else "idle"

    def seen(self, given: Decision) -> Host:
        """Return it as a watcher sees it."""
        made = host(f"{self.name} {self.shape(given)}{' leaving' if 'leaves' in self.odd else ''}")
        instance = "" if self.gone_s is not None else "another boot" if "restarts" in self.odd else made.instance
        return replace(made, instance=instance, gone_s=self.gone_s, unwell_s=self.ill_s)


@dataclass(slots=True)
class RolloutSim:
    """A rollout, its hosts, and the transitions so far."""

    given: Decision
    sim_hosts: dict[str, SimHost]
    members: tuple[NodeName, ...] = ()
    now: float = NOW
    changes: list[tuple[Decision, Change, Fleet]] = field(default_factory=list)
    """What was, what it became, and what was seen of the fleet."""

    @property
    def phases(self) -> list[Phase]:
        """The phases in the order of their first entry and each entry after it."""
        return [change.record.phase for before, change, _ in self.changes if change.record.phase is not before.phase]

    def seen(self) -> Fleet:
        """Return what a coordinator sees now."""
        hosts = {NodeName(name): sim_host.seen(self.given) for name, sim_host in self.sim_hosts.items()}
        active = A.image if self.given.source is not None else None
        return Fleet(hosts, self.members, active, RESOLVED, is_consistent=True)

    def take(self, change: Change, seen: Fleet) -> None:
        """Write a change."""
        self.changes.append((self.given, change, seen))
        if change.record.phase is not self.given.phase:
            for sim_host in self.sim_hosts.values():
                sim_host.progress = sim_host.progress if change.record.phase is not Phase.STAGING else 0
        self.given = change.record
        self.members = self.members if change.members is None else change.members

    def command(self, name: str) -> None:
        """Let an operator command; what is refused changes nothing."""
        try:
            self.take(COMMANDS[name](keys(self.given), BOB), self.seen())
        except PermanentError:
            return

    def inject_fault(self, mishap: str, name: str) -> None:
        """Let something happen to a host."""
        sim_host = self.sim_hosts[name]
        match mishap:
            case "is lost":
                sim_host.gone_s = 0.0 if sim_host.gone_s is None else sim_host.gone_s
            case "comes back":
                sim_host.gone_s, sim_host.odd = None, set()
            case "joins":
                fresh = f"new-{len(self.sim_hosts)}"
                self.sim_hosts[fresh] = SimHost(fresh)
            case _:
                sim_host.odd.add(mishap)

    def tick(self) -> None:
        """Let the coordinator do all that is due, then time pass."""
        for _ in range(5):
            seen = self.seen()
            change = advance(self.given, seen, self.now).change
            if change is None:
                break
            self.take(change, seen)
        self.now += TICK_S
        for sim_host in self.sim_hosts.values():
            sim_host.tick(self.given)

    def run(self, events: list[Event], ticks: int, each: Callable[[], None] = lambda: None) -> None:
        """Play until the end, at most so many ticks after the last event."""
        last = max((at for at, _, _ in events), default=0)
        for at in range(last + ticks):
            for _, what, number in (event for event in events if event[0] == at):
                if what in COMMANDS:
                    self.command(what)
                else:
                    self.inject_fault(what, sorted(self.sim_hosts)[number % len(self.sim_hosts)])
            each()
            self.tick()
            if self.given.phase.is_terminal:
                return


def begun(strategy: Strategy, count: int, *, is_first: bool) -> RolloutSim:
    """Return a simulation whose record a command has just written."""
    given = record(Phase.PENDING, source=None if is_first else A, strategy=strategy, since=None, deadline=None)
    return RolloutSim(given, {name: SimHost(name) for name in (f"web-{number}" for number in range(1, count + 1))})


def written(sim: RolloutSim) -> Iterator[tuple[Decision, Decision, Change, Fleet]]:
    """Yield each change: before, after, the change, and the fleet it was decided on."""
    return ((before, change.record, change, seen) for before, change, seen in sim.changes)

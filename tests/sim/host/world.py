"""A small simulated host in virtual time: HAProxy, Docker, Consul, visitors, and the agent that may die anywhere."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from agent.core.host.build_report import HostView
from agent.core.host.observed import Container
from agent.core.model.app import App, DeployTimings
from agent.core.model.names import AppName, ContainerId, NodeName, Pin, SlotName
from tests.sim.consul.link import Link
from tests.sim.consul.servers import SimConsul
from tests.sim.host.agent import Agent, Bug, Telling
from tests.sim.host.consul_model import ConsulModel
from tests.sim.host.docker_model import DockerModel
from tests.sim.host.monitor import Monitor
from tests.sim.host.proxy_model import Process, ProxyModel, Request
from tests.sim.world_clock import WorldClock

STEP_S = 0.1
KNOBS = DeployTimings(
    healthy_deadline=10.0,
    min_healthy_time=1.0,
    bake_time=2.0,
    drain_timeout=20.0,
    visit_idle=4.0,
    stop_grace_period=2.0,
)


@dataclass(slots=True, eq=False)
class Visitor:
    """Somebody with a cookie jar who asks every *period_s*, some requests being long."""

    period_s: float
    keeps_alive: bool
    long_every: int
    next_at: float = 0.0
    asked: int = 0
    pin: Pin | None = None
    stamped: float = 0.0
    last: Container | None = None
    process: Process | None = None
    silent_until: float = 0.0
    forgets: bool = False
    """Without a cookie jar: a new visitor at each request."""

    def holds(self, now: float, idle_s: float) -> Container | None:
        """Return the container of a visit that is not over."""
        return self.last if self.pin is not None and now - self.stamped < idle_s - 0.2 else None


@dataclass(slots=True)
class World:
    """Everything together; `run_for` lets time pass."""

    seed: int = 0
    bug: Bug = field(default_factory=Bug)
    clock: WorldClock = field(default_factory=WorldClock)
    restored: bool = False
    """A snapshot of Consul was restored: somebody has to adopt it."""
    node: NodeName = field(default=NodeName("web-1"))
    boot_wait_s: float = 3.0
    app: App = field(default_factory=lambda: App(name=AppName("cs90"), knobs=KNOBS))
    visitors: list[Visitor] = field(default_factory=list)
    failed: int = 0
    phase_seen: tuple[int, int] = (0, 0)
    phase_since: float = 0.0
    """When the coordinator's present phase began."""
    starts: int = 0
    consul: ConsulModel = field(init=False)
    docker: DockerModel = field(init=False)
    proxy: ProxyModel = field(init=False)
    monitor: Monitor = field(init=False)
    agent: Agent = field(init=False)

    def __post_init__(self) -> None:
        close_all()
        _OPEN.append(self)
        servers = SimConsul(self.clock)
        self.docker = DockerModel(self.clock)
        self.proxy = ProxyModel(self.docker.answers)
        self.monitor = Monitor(self)
        telling = Telling(ticked=_nothing, died=self.start_agent, crashed=partial(self.monitor.breach, "crash"))
        link = Link(servers, random.Random(self.seed + 1))
        self.agent = Agent(self, self.clock.loop, link, random.Random(self.seed + 2), telling, self.bug)
        self.consul = ConsulModel(servers, self.app.name, self.agent.transport)
        self.start_agent()
        rng = random.Random(self.seed)
        self.visitors = [
            Visitor(rng.choice((0.4, 0.9, 2.3)), rng.random() < 0.4, rng.choice((0, 4, 9))) for _ in range(5)
        ]
        self.visitors.append(Visitor(STEP_S, keeps_alive=False, long_every=7, forgets=True))

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self.clock.now

    @property
    def leaving(self) -> bool:
        """Whether an operator takes the host out of traffic."""
        return self.agent.leaving

    @leaving.setter
    def leaving(self, leaving: bool) -> None:
        self.agent.set_leaving(leaving=leaving)

    def start_agent(self, *, wiped: bool = False, rebooted: bool = False) -> None:
        """Start the agent's process."""
        self.starts += 1
        self.agent.start(f"boot.{self.starts}", wiped=wiped, rebooted=rebooted)

    def sync(self) -> None:
        """Bring HAProxy to the present."""
        self.proxy.advance(self.now)

    def run_for(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; stop early when *until* holds, and say whether it did."""
        end = self.now + seconds
        while self.now < end:
            self.step()
            if until is not None and until():
                return True
        return until is None

    def step(self) -> None:
        """Let a tenth of a second pass."""
        self.clock.run(round(self.now + STEP_S, 3))
        self.proxy.process.clients = sum(v.process is self.proxy.process for v in self.visitors if v.keeps_alive)
        self.proxy.advance(self.now)
        for visitor in self.visitors:
            if self.now >= max(visitor.next_at, visitor.silent_until):
                self._ask(visitor)
        if self.proxy.down:
            self.proxy.requests.clear()
        self.monitor.look()

    def _ask(self, visitor: Visitor) -> None:
        visitor.next_at, visitor.asked = self.now + visitor.period_s, visitor.asked + 1
        known = visitor.process
        alive = visitor.keeps_alive and known is not None and (known is self.proxy.process or known in self.proxy.old)
        process = known if alive and known is not None else self.proxy.process
        visitor.process = process
        held = visitor.pin if self.now - visitor.stamped < self.app.knobs.visit_idle else None
        slot = None if self.proxy.down else self._reach(process, held)
        if slot is None:
            self.failed += 1
            return
        occupant = self.docker.in_slot(slot)
        assert occupant is not None
        self.monitor.visit(visitor, occupant)
        long = visitor.long_every and visitor.asked % visitor.long_every == 0
        self.proxy.requests.append(Request(process, slot, occupant.id, self.now + (3.0 if long else 0.05)))
        process.servers[slot].last_request = self.now
        visitor.pin = None if visitor.forgets else process.pins.get(slot)
        visitor.stamped, visitor.last = self.now, occupant
        if process is not self.proxy.process:
            process.clients -= 1
            visitor.process = None

    def _reach(self, process: Process, pin: Pin | None) -> SlotName | None:
        """Route, and redispatch from a slot that refuses the connection."""
        slot = self.proxy.route(process, pin)
        if slot is not None and self.docker.in_slot(slot) is None:
            slot = next((s for s in SlotName if process.servers[s].takes_new and self.docker.in_slot(s)), None)
        return slot

    def close_sessions(self, slot: SlotName) -> None:
        """Do what `shutdown sessions` does."""
        process = self.proxy.process
        self.proxy.requests = [r for r in self.proxy.requests if not (r.process is process and r.slot is slot)]

    def occupant(self, slot: SlotName) -> Container | None:
        """Return any container in *slot*."""
        return next((c for c in self.docker.containers_by_id.values() if c.slot is slot), None)

    def serving(self) -> Container | None:
        """Return the running container new visitors reach."""
        servers = self.proxy.process.servers
        return next((c for s in SlotName if servers[s].takes_new and (c := self.docker.in_slot(s))), None)

    def excuse_all(self) -> None:
        """Note that a fault may move the visitors of every container there is."""
        self.monitor.excused.update(self.docker.containers_by_id)

    def label(self, container: ContainerId, **changes: object) -> None:
        """Change what Docker says of a container."""
        self.docker.put(replace(self.docker.containers_by_id[container], **changes))  # type: ignore[arg-type]


_OPEN: list[World] = []


def close_all() -> None:
    """End what still runs of worlds that were looked at before."""
    while _OPEN:
        _OPEN.pop().clock.end()


def _nothing(_: HostView) -> None:
    """Nobody reads this host's report."""

"""
One host of the fleet: models of Docker and HAProxy, and the agent's shipped loops over them.

What lasts (containers, files, journal) survives the agent and a reboot as on a real host.
"""

from dataclasses import dataclass, field

from agent.adapters.consul.services import CheckStatus
from agent.core.host.actions import Action
from agent.core.host.build_report import HostView
from agent.core.host.observed import Container
from agent.core.model.app import App
from agent.core.model.names import ContainerId, NodeName, SlotName
from agent.core.model.states import ReadinessGate
from tests.sim.consul.link import Link
from tests.sim.fleet.surroundings import Everything, Nothing, Surroundings
from tests.sim.host.agent import Agent, Telling
from tests.sim.host.docker_model import DockerModel, behaviour_of
from tests.sim.host.monitor import Monitor
from tests.sim.host.proxy_model import ProxyModel
from tests.sim.virtual_time import Process

CHECK_S = 5.0
"""Interval of Consul's check of the agent, and about what gossip needs to notice a dead machine."""
DIES_AFTER_S = 3.0
FOREVER = float("inf")


@dataclass(slots=True, eq=False)
class Node:
    """A host by name; another instance may come under the same name."""

    name: NodeName
    at: Surroundings
    link: Link
    is_up: bool = False
    is_gone: bool = False
    """For ever."""
    boot_wait_s: float = 15.0
    machine: int = 0
    """Tells it from another one of the same name."""
    boots: int = 0
    starts: int = 0
    app: App = field(init=False)
    docker: DockerModel = field(init=False)
    proxy: ProxyModel = field(init=False)
    monitor: Monitor = field(init=False)
    agent: Agent = field(init=False)
    consul: Nothing = field(default_factory=Nothing)
    troubled_until: float = 0.0
    """A fault was at work here until then: what its visitors got may be excused."""
    unfit: set[str] = field(default_factory=set)
    """Releases that have failed here at some time."""
    staged: dict[int, str] = field(default_factory=dict)
    """Digest that was seen staged here, by the generation it was staged for; kept by the monitor."""

    def __post_init__(self) -> None:
        at = self.at
        self.app = at.app
        self.docker = DockerModel(at.clock, behaviour=self._behaviour, pull_s=at.rng.uniform(0.3, 4.0))
        self.proxy = ProxyModel(self.docker.answers)
        self.monitor = Monitor(self)
        self.monitor.activated = self.monitor.ever_activated = Everything()
        self.monitor.took = self._took
        telling = Telling(ticked=self._ticked, died=self._died, crashed=at.crashed)
        self.agent = Agent(self, at.clock.loop, self.link, at.rng, telling, at.bug)

    @property
    def now(self) -> float:
        """Seconds of the one clock."""
        return self.at.clock.now

    @property
    def node(self) -> NodeName:
        """Its name, as the agent asks for it."""
        return self.name

    @property
    def process(self) -> Process:
        """The agent's process."""
        return self.agent.process

    @property
    def is_agent_up(self) -> bool:
        """Whether the agent's process runs."""
        return self.is_up and self.agent.is_alive

    def _behaviour(self, reference: str) -> str:
        behaviour = behaviour_of(reference)
        if behaviour == "sickone":
            return "never" if self.name.endswith("1") else "good"
        return behaviour

    def boot(self, *, wiped: bool = False) -> None:
        """Switch the machine on: HAProxy starts without states, containers wait for the agent."""
        if self.is_up or self.is_gone:
            return
        self.is_up, self.boots = True, self.boots + 1
        self.sync()
        self.proxy.restart(keep=False)
        self.agent.leaving = False
        self._start_agent(wiped=wiped, rebooted=True)

    def power_off(self, *, for_ever: bool = False) -> None:
        """Take the power away: everything stops at once."""
        if not self.is_up:
            self.is_gone = self.is_gone or for_ever
            return
        self.sync()
        self.is_up, self.is_gone = False, for_ever
        self.agent.kill()
        self.proxy.requests.clear()
        for container in tuple(self.docker.containers_by_id.values()):
            if container.is_running:
                self.docker.exit(container.id, 137)
        boots = self.boots
        self.at.clock.after(self.at.rng.uniform(4.0, 6.5), lambda: self._noticed_dead(boots))

    def _noticed_dead(self, boots: int) -> None:
        if not self.is_up and self.boots == boots:
            self.link.consul.machine_died(self.name)

    def kill_agent(self, back_after_s: float, *, wiped: bool = False) -> None:
        """End the agent's process; its supervisor starts it again."""
        if self.is_agent_up:
            self.agent.kill()
            self._come_back(back_after_s, wiped=wiped)

    def _died(self) -> None:
        rng = self.at.rng
        self._come_back(rng.choice((0.3, 2.0, 15.0)), wiped=rng.random() < 0.2)

    def _come_back(self, after_s: float, *, wiped: bool) -> None:
        run = self.boots, self.starts
        self.at.clock.after(self.at.rng.uniform(0.5, CHECK_S + 2), lambda: self._check(run))
        self.at.clock.after(after_s, lambda: self._restart_agent(run, wiped))

    def _restart_agent(self, run: tuple[int, int], wiped: bool) -> None:
        if self.is_up and not self.agent.is_alive and run == (self.boots, self.starts):
            self._start_agent(wiped=wiped, rebooted=False)

    def _check(self, run: tuple[int, int]) -> None:
        if self.is_up and not self.agent.is_alive and run == (self.boots, self.starts):
            self.link.consul.set_status(self.name, CheckStatus.CRITICAL)

    def _check_again(self, run: tuple[int, int]) -> None:
        if self.is_agent_up and self.link.is_open and run == (self.boots, self.starts):
            self.link.consul.set_status(self.name, CheckStatus.PASSING)

    def _start_agent(self, *, wiped: bool, rebooted: bool) -> None:
        self.starts += 1
        if self.starts == 1:
            # The Consul agent of a new machine knows no services: what another one under its name had goes.
            self.link.consul.deregister(self.name)
        run = self.boots, self.starts
        self.at.clock.after(self.at.rng.uniform(0.5, CHECK_S), lambda: self._check_again(run))
        instance = f"{self.name}.{self.machine}.{self.boots}.{self.starts}"
        self.agent.start(instance, wiped=wiped, rebooted=rebooted)

    def _ticked(self, _: HostView) -> None:
        self.sync()
        self.monitor.look()
        self.at.ticked(self)

    def _took(self, action: Action, occupant: Container) -> None:
        self.at.took(self, action, occupant)
        if self.docker.behaviour(occupant.reference) == "dies":
            self.docker.sick.add(occupant.id)  # it will not be healthy again either
            self.at.clock.after(DIES_AFTER_S, lambda: self.let_die(occupant.id))

    def let_die(self, container: ContainerId) -> None:
        """Let a container's process end by itself."""
        known = self.docker.containers_by_id.get(container)
        if known is not None and known.is_running:
            self.sync()
            self.monitor.excused.add(container)
            self.docker.exit(container, 137)

    def sync(self) -> None:
        """Bring HAProxy to the present."""
        self.proxy.advance(self.at.clock.now)

    @property
    def says_ready(self) -> bool:
        """What the balancer's health check gets."""
        process = self.proxy.process
        if not self.is_up or self.proxy.down or process.gate is ReadinessGate.CLOSED:
            return False
        return process.gate is ReadinessGate.HOLDING or any(srv.takes_new for srv in process.servers.values())

    def serving(self) -> Container | None:
        """Return the running container new visitors reach."""
        servers = self.proxy.process.servers
        return next((c for s in SlotName if servers[s].takes_new and (c := self.docker.in_slot(s))), None)

    def close_sessions(self, slot: SlotName) -> None:
        """Do what `shutdown sessions` does."""
        self.proxy.requests = [
            r for r in self.proxy.requests if not (r.process is self.proxy.process and r.slot is slot)
        ]

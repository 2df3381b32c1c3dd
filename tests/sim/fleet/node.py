"""
One host of the fleet: Docker, HAProxy and the agent with the real core; it ticks only when something woke it.

What lasts (containers, files, journal) survives the agent and a reboot as on a real host.
"""

from dataclasses import dataclass, field

from agent.adapters.consul.services import CheckStatus
from agent.adapters.host.journal import _rebased
from agent.core.host.actions import Action, JobAction
from agent.core.host.build_report import HostView, Identity, report_of
from agent.core.host.memory import Memory
from agent.core.host.observed import Container, Observed
from agent.core.host.plan import Plan
from agent.core.host.validate import Validated
from agent.core.model.app import App
from agent.core.model.keys import Outcome, Unknown
from agent.core.model.names import ContainerId, NodeName, SlotName
from agent.core.model.states import ReadinessGate
from tests.sim.fleet.clock import Process
from tests.sim.fleet.link import Link
from tests.sim.fleet.reporting import SimReporter
from tests.sim.fleet.surroundings import Everything, Reading, Surroundings
from tests.sim.fleet.watching import Watch
from tests.sim.host.agent_model import PROBE_EVERY_S, Agent
from tests.sim.host.docker_model import DockerModel, behaviour_of
from tests.sim.host.monitor import Monitor
from tests.sim.host.proxy_model import ProxyModel

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
    leaving: bool = False
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
    consul: Reading = field(default_factory=Reading)
    watch: Watch = field(init=False)
    process: Process = field(init=False)
    reporter: SimReporter = field(init=False)
    troubled_until: float = 0.0
    """A fault was at work here until then: what its visitors got may be excused."""
    unfit: set[str] = field(default_factory=set)
    """Releases that have failed here at some time."""
    staged: dict[int, str] = field(default_factory=dict)
    """Digest that was seen staged here, by the generation it was staged for; kept by the monitor."""
    _due: float = FOREVER
    _docker_due: float = FOREVER
    _probing: bool = False
    _last_actions: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        at = self.at
        self.app = at.app
        self.docker = DockerModel(behaviour=self._behaviour, pull_s=at.rng.uniform(0.3, 4.0))
        self.proxy = ProxyModel(self.docker.answers)
        self.monitor = Monitor(self)
        self.monitor.activated = self.monitor.ever_activated = Everything()
        self.monitor.took = self._took
        self.agent = Agent(self, at.bug)
        self.watch = Watch(at.clock, self.link, at.snapshots, at.rng, self._read)
        self._new_process()

    @property
    def now(self) -> float:
        """Seconds of the one clock."""
        return self.at.clock.now

    @property
    def node(self) -> NodeName:
        """Its name, as the agent asks for it."""
        return self.name

    @property
    def is_agent_up(self) -> bool:
        """Whether the agent's process runs."""
        return self.is_up and self.process.alive

    @property
    def instance(self) -> str:
        """Instance id of the agent."""
        return f"{self.name}.{self.machine}.{self.boots}.{self.starts}"

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
        self.leaving = False
        memory = Memory() if wiped else _rebased(self.agent.journal, 0.0)
        self.agent.memory = self.agent.journal = memory
        self._start_agent()

    def power_off(self, *, for_ever: bool = False) -> None:
        """Take the power away: everything stops at once."""
        if not self.is_up:
            self.is_gone = self.is_gone or for_ever
            return
        self.sync()
        self.is_up, self.is_gone = False, for_ever
        self._stop_agent()
        self.proxy.requests.clear()
        for container in tuple(self.docker.containers.values()):
            if container.is_running:
                self.docker.exit(container.id, 137)
        boots = self.boots
        self.at.clock.after(self.at.rng.uniform(4.0, 6.5), lambda: self._noticed_dead(boots))

    def _noticed_dead(self, boots: int) -> None:
        if not self.is_up and self.boots == boots:
            self.link.consul.machine_died(self.name)

    def kill_agent(self, back_after_s: float, *, wiped: bool = False) -> None:
        """End the agent's process; its supervisor starts it again."""
        if not self.is_agent_up:
            return
        self._stop_agent()
        run = self.boots, self.starts
        self.at.clock.after(self.at.rng.uniform(0.5, CHECK_S + 2), lambda: self._check(run))
        self.at.clock.after(back_after_s, lambda: self._restart_agent(run, wiped))

    def _restart_agent(self, run: tuple[int, int], wiped: bool) -> None:
        if self.is_up and not self.process.alive and run == (self.boots, self.starts):
            self.sync()
            self.agent.restart(wiped=wiped)
            self._start_agent()

    def _check(self, run: tuple[int, int]) -> None:
        if self.is_up and not self.process.alive and run == (self.boots, self.starts):
            self.link.consul.set_status(self.name, CheckStatus.CRITICAL)

    def _stop_agent(self) -> None:
        self.process.kill()
        self.watch.stop()
        self.docker.agent_died()
        self._due = FOREVER

    def _start_agent(self) -> None:
        self.starts += 1
        self._new_process()
        self.agent.began, self.agent.confirmed, self.agent.steps_left = self.now, False, None
        self.agent.plan, self._last_actions = None, ()
        self.consul.outcome = Unknown("not read yet")
        self.link.consul.set_status(self.name, CheckStatus.PASSING)
        self.watch.start()
        self._tick_at(self.now + 0.3)

    def _new_process(self) -> None:
        self.process = Process(self.at.clock)
        self.reporter = SimReporter(self.at.clock, self.link, self.process, self.name)

    def wake(self) -> None:
        """Something may have changed."""
        self._tick_at(self.now + 0.001)

    def _read(self, outcome: Outcome, went_back: bool) -> None:
        came_back = bool(self.consul.away) and not isinstance(outcome, Unknown)
        self.consul.outcome = outcome
        if went_back or came_back:
            self.reporter.forget()
        self.wake()

    def _tick_at(self, due: float) -> None:
        if due < self._due and self.is_agent_up:
            self._due = due
            self.at.clock.at(due, lambda: self._fire(due))

    def _fire(self, due: float) -> None:
        if due != self._due or not self.is_agent_up:
            return
        self._due = FOREVER
        if self.now < self.process.stalled_until:
            self._tick_at(self.process.stalled_until)
            return
        self._tick()

    def _tick(self) -> None:
        self.sync()
        self.agent.tick()
        plan = self.agent.plan
        if plan is None:  # it died between two steps
            self.kill_agent(self.at.rng.choice((0.3, 2.0, 15.0)), wiped=self.at.rng.random() < 0.2)
            return
        self.monitor.look()
        acted = any(not isinstance(action, JobAction) for action in plan.actions)
        again = acted and plan.actions == self._last_actions
        self._last_actions = plan.actions
        self._tick_at(self.now + (0.5 if again else 0.002) if acted else max(plan.look_again_at, self.now + 0.002))
        boot_wait_ends = self.agent.began + self.boot_wait_s + 0.01
        if not self.agent.confirmed and boot_wait_ends > self.now:
            self._tick_at(boot_wait_ends)
        self.follow_docker()
        self._probe_later()
        self.at.ticked(self)

    def _took(self, action: Action, occupant: Container) -> None:
        self.at.took(self, action, occupant)
        if self.docker.behaviour(occupant.reference) == "dies":
            self.docker.sick.add(occupant.id)  # it will not be healthy again either
            self.at.clock.after(DIES_AFTER_S, lambda: self.let_die(occupant.id))

    def let_die(self, container: ContainerId) -> None:
        """Let a container's process end by itself."""
        known = self.docker.containers.get(container)
        if known is not None and known.is_running:
            self.sync()
            self.monitor.excused.add(container)
            self.docker.exit(container, 137)
            self.wake()

    def ticked(self, observed: Observed, validated: Validated, plan: Plan) -> None:
        """Publish what the tick showed."""
        view = HostView(self.app, observed, validated.desired, plan, self.consul.outcome)
        self.reporter.publish(report_of(view, Identity(self.name, self.instance, "sim")))

    def follow_docker(self) -> None:
        """Be there when a job ends or a container exits."""
        due = self.docker.next_due()
        if due < FOREVER and due != self._docker_due:
            self._docker_due = due
            self.at.clock.at(due, lambda: self._docker_event(due))

    def _docker_event(self, due: float) -> None:
        if due == self._docker_due:
            self._docker_due = FOREVER
            self.sync()
            self.follow_docker()
            self.wake()

    def _probe_later(self) -> None:
        if not self._probing and self.agent.plan is not None and self.agent.plan.probes:
            self._probing = True
            self.at.clock.after(PROBE_EVERY_S, self._probe)

    def _probe(self) -> None:
        self._probing = False
        if not self.is_agent_up or self.agent.plan is None:
            return
        self.sync()
        before = dict(self.agent.healthy_since)
        self.agent.probe()
        if self.agent.healthy_since != before:
            self.wake()
        self._probe_later()

    def sync(self) -> None:
        """Bring HAProxy and Docker to the present."""
        self.docker.now = self.now
        self.proxy.advance(self.now)
        self.docker.advance(self.now)

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

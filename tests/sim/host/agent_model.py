"""The agent of a simulated host: the core with an executor that may die between any two steps of a plan."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.core.host.actions import (
    Action,
    CancelPull,
    Pull,
    Run,
    SaveState,
    SetPins,
    SetReadinessGate,
    SetState,
    ShutdownSessions,
    Start,
    Stop,
    Switch,
)
from agent.core.host.decide import decide
from agent.core.host.desired import Desired
from agent.core.host.memory import LastApplied, Memory
from agent.core.host.observed import Container, Health, Observed, Unavailable
from agent.core.host.plan import Plan
from agent.core.host.plan_builder import DecisionInput
from agent.core.host.validate import BootState, Validated, validate
from agent.core.model.keys import Outcome
from agent.core.model.names import ContainerId, NodeName
from agent.core.model.states import AdminState
from tests.sim.host.place import Place
from tests.sim.host.proxy_model import Process

PROBE_EVERY_S = 0.3


class BrokenOffError(Exception):
    """The plan was not carried out to its end: the process died, or a step was refused."""


@dataclass(slots=True)
class Bug:
    """A bug planted into the agent or into what it sees, to prove that a check can fail."""

    plan: Callable[[Plan, DecisionInput], Plan] = lambda plan, _: plan
    seen: Callable[[Observed], Observed] = lambda observed: observed
    validate: Callable[[Outcome, LastApplied, NodeName, BootState], Validated] = validate


@dataclass(slots=True)
class Agent:
    """The agent process; `journal` is what survives it."""

    world: Place
    bug: Bug
    memory: Memory = field(default_factory=Memory)
    journal: Memory = field(default_factory=Memory)
    desired: Desired | None = None
    plan: Plan | None = None
    look_at: float = 0.0
    confirmed: bool = False
    began: float = 0.0
    healthy_since: dict[ContainerId, float | None] = field(default_factory=dict)
    probe_at: float = 0.0
    steps_left: int | None = None
    """Steps until it is killed; None: it lives."""
    ticks_with_actions: int = 0

    def tick(self) -> None:
        """Observe, judge, decide, apply one action at a time, then write the journal."""
        world = self.world
        outcome = world.consul.read()
        running = any(container.is_running for container in world.docker.containers.values())
        boot = BootState(
            running, self.confirmed, world.now - self.began, boot_wait_s=world.boot_wait_s, now_wall=world.now
        )
        before = self.memory.last_applied
        validated = self.bug.validate(outcome, before, world.node, boot)
        world.monitor.validated(before, validated.last_applied)
        self.confirmed = self.confirmed or not world.consul.away
        self.desired = validated.desired
        observed = self.bug.seen(self._observe())
        memory = self.memory.replace(last_applied=validated.last_applied, leaving=world.leaving)
        decision_input = DecisionInput(world.app, observed, validated.desired, memory, world.now)
        plan = self.bug.plan(decide(decision_input), decision_input)
        world.monitor.before_plan(plan)
        self.look_at, self.plan = plan.look_again_at, plan
        self.ticks_with_actions += bool(plan.actions)
        try:
            self._apply(plan)
        except BrokenOffError:
            if self.steps_left is not None:
                self.restart()
            return
        self.memory = self.journal = plan.memory
        world.ticked(observed, validated, plan)

    def _observe(self) -> Observed:
        world = self.world
        results, world.docker.results = tuple(world.docker.results), []
        images, world.docker.images = world.docker.images, {}
        listed = world.docker.observe()
        health = {} if isinstance(listed, Unavailable) else self._health(listed)
        return Observed(listed, world.proxy.observe(), health, world.docker.jobs(), images, results)

    def _health(self, listed: tuple[Container, ...]) -> dict[ContainerId, Health]:
        found = {}
        for container in listed:
            if container.id in self.healthy_since:
                since = self.healthy_since[container.id]
                for_s = None if since is None else self.world.now - since
                found[container.id] = Health(container.id, for_s, probed=True, detail="" if since else "refused")
        return found

    def probe(self) -> None:
        """Probe what the last plan asked to be probed."""
        world = self.world
        if self.plan is None or world.now < self.probe_at:
            return
        self.probe_at = world.now + PROBE_EVERY_S
        orders = {order.container for order in self.plan.probes}
        for container in [world.docker.containers[order] for order in orders if order in world.docker.containers]:
            known = self.healthy_since.get(container.id)
            good = world.docker.is_healthy(container)
            self.healthy_since[container.id] = (known if known is not None else world.now) if good else None
        self.healthy_since = {key: value for key, value in self.healthy_since.items() if key in orders}

    def restart(self, *, wiped: bool = False) -> None:
        """Die and start anew, with the journal or without."""
        self.memory = self.journal = Memory() if wiped else self.journal
        self.world.docker.agent_died()
        self.confirmed, self.began, self.steps_left, self.plan = False, self.world.now, None, None
        self.healthy_since, self.look_at = {}, self.world.now + 0.3

    def _apply(self, plan: Plan) -> None:
        for action in plan.actions:
            for step in self._steps(action):
                if self.steps_left == 0:
                    raise BrokenOffError
                before = self.world.monitor.taking_new()
                step()
                self.world.monitor.after_step(action, before)
                if self.steps_left is not None:
                    self.steps_left -= 1
        if self.steps_left is not None and plan.actions:
            raise BrokenOffError

    def _steps(self, action: Action) -> Iterator[Callable[[], None]]:
        world = self.world
        proxy, process = world.proxy, world.proxy.process
        match action:
            case SetPins(pins):
                yield lambda: setattr(proxy, "saved_pins", dict(pins))
                yield lambda: setattr(process, "pins", dict(pins))
            case SetState(slot, state):
                yield lambda: process.servers[slot].set(state, world.now)
            case Switch():
                yield from self._switch(action, process)
            case ShutdownSessions(slot):
                yield lambda: world.close_sessions(slot)
            case SetReadinessGate(gate):
                yield lambda: setattr(proxy, "saved_gate", gate)
                yield lambda: setattr(process, "gate", gate)
            case SaveState():
                yield proxy.save_states
            case Pull() | CancelPull() | Run() | Start() | Stop():
                world.monitor.before_job(action)
                yield lambda: world.docker.begin(action)

    def _switch(self, action: Switch, process: Process) -> Iterator[Callable[[], None]]:
        srv, now = process.servers[action.new], self.world.now
        self.world.monitor.before_switch(action)
        yield lambda: srv.set(AdminState.READY, now)
        yield srv.health_up
        old = process.servers[action.old]
        yield lambda: old.set(action.old_to, now)

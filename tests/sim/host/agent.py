"""
The agent of a simulated host: the shipped loops, put together as the daemon does it, over models of the outside.

It dies as a process does, between any two steps of a plan where a test says so, and starts again with its journal.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, cast

from agent.adapters.consul.presence import Presence
from agent.adapters.consul.watch import Pace, watch
from agent.adapters.host.journal import _rebased
from agent.adapters.host.probe import Prober, ProbeResult, ProbeTarget
from agent.core.host.actions import Action, CancelPull, Pull, Run, Start, Stop, Switch
from agent.core.host.build_report import HostView, Identity, report_of, with_times
from agent.core.host.decide import decide
from agent.core.host.desired import Desired
from agent.core.host.memory import LastApplied, Memory
from agent.core.host.observed import Observed
from agent.core.host.plan import Plan
from agent.core.host.plan_builder import DecisionInput
from agent.core.host.validate import BootState, Validated, validate
from agent.core.model.keys import Known, Outcome
from agent.core.model.names import NodeName, SlotName
from agent.runtime.host.event_sources import follow_docker, follow_haproxy
from agent.runtime.host.executor import Executor
from agent.runtime.host.jobs import Jobs
from agent.runtime.host.observer import Observer
from agent.runtime.host.reconciler import BootPolicy, Reconciler
from agent.runtime.host.reporter import Reporter
from agent.runtime.wake import WakeSignal
from tests.sim.consul.link import Link
from tests.sim.consul.transport import SimTransport, client_over
from tests.sim.host.place import Place
from tests.sim.host.proxy_port import SimProxy
from tests.sim.virtual_time import Process, SimClock, VirtualLoop

STARTS_IN_S = 0.3
JOURNAL_MAX_AGE_S = 86_400.0


@dataclass(slots=True)
class Bug:
    """A bug planted into the agent or into what it sees, to prove that a check can fail."""

    plan: Callable[[Plan, DecisionInput], Plan] = lambda plan, _: plan
    seen: Callable[[Observed], Observed] = lambda observed: observed
    validate: Callable[[Outcome, LastApplied, NodeName, BootState], Validated] = validate


@dataclass(slots=True)
class MemoryJournal:
    """The journal's file, without a disk."""

    memory: Memory = field(default_factory=Memory)

    def save(self, memory: Memory) -> bool:
        """Keep *memory*; return whether it is another one."""
        is_new, self.memory = memory is not self.memory, memory
        return is_new


@dataclass(slots=True)
class Telling:
    """Whom the agent's life is told to."""

    ticked: Callable[[HostView], None]
    """After each tick."""
    died: Callable[[], None]
    """It came to the step before which it was to die."""
    crashed: Callable[[str], None]
    """A loop of it ended by an error of its own."""


@dataclass(slots=True)
class _Seeing:
    """An observer that sees what a bug makes of it."""

    observer: Observer
    seen: Callable[[Observed], Observed]

    async def observe(self, *, fresh: bool = False) -> Observed:
        return self.seen(await self.observer.observe(fresh=fresh))


@dataclass(eq=False, slots=True)
class Agent:
    """The agent of one host through all its lives; `journal` is what survives it."""

    place: Place
    loop: VirtualLoop
    link: Link
    rng: random.Random
    telling: Telling
    bug: Bug = field(default_factory=Bug)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    leaving: bool = False
    """What an operator wants; told to each new process."""
    desired: Desired | None = None
    baseline: LastApplied = field(default_factory=LastApplied)
    """What it acts on now."""
    plan: Plan | None = None
    steps_left: int | None = None
    """Steps until it is killed; None: it lives."""
    ticks_with_actions: int = 0
    action: Action | None = None
    """What it does now."""
    transport: SimTransport = field(init=False)
    process: Process = field(init=False)
    reconciler: Reconciler = field(init=False)
    reporter: Reporter = field(init=False)
    jobs: Jobs = field(init=False)

    def __post_init__(self) -> None:
        self.transport = SimTransport(self.link, self.place.node, self.place.node)
        self._compose(Identity(self.place.node, "none", "sim"), asyncio.TaskGroup())
        self.process.kill()

    @property
    def memory(self) -> Memory:
        """What the agent remembers."""
        return self.reconciler.memory

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self.process.is_alive

    def start(self, instance: str, *, wiped: bool = False, rebooted: bool = False) -> None:
        """Start a process, with the journal or without it."""
        if wiped:
            self.journal = MemoryJournal()
        elif rebooted:
            self.journal = MemoryJournal(_rebased(self.journal.memory, 0.0))
        group = asyncio.TaskGroup()
        loops = self._compose(Identity(self.place.node, instance, "sim"), group)
        process = self.process
        task = process.spawn(self._run(group, loops))
        task.add_done_callback(partial(self._ended, process), context=self.loop.world)

    def kill(self) -> None:
        """End the process wherever it is."""
        self.process.kill()
        self.steps_left = self.plan = None
        self.place.docker.agent_died()

    def set_leaving(self, *, leaving: bool) -> None:
        """Take the host out of traffic, or back; an agent that is away is asked when it is there again."""
        self.leaving = leaving
        if self.is_alive:
            self.reconciler.set_leaving(leaving=leaving)

    async def _run(self, group: asyncio.TaskGroup, loops: "tuple[Loop, ...]") -> None:
        await asyncio.sleep(STARTS_IN_S)
        if self.leaving != self.memory.leaving:
            self.reconciler.set_leaving(leaving=self.leaving)
        async with group:
            for loop in loops:
                group.create_task(loop())

    def _ended(self, process: Process, task: "asyncio.Task[None]") -> None:
        if process.is_alive and not task.cancelled() and (error := task.exception()) is not None:
            self.telling.crashed(repr(error))

    def _compose(self, identity: Identity, group: asyncio.TaskGroup) -> "tuple[Loop, ...]":
        """Put the loops together; as `agent.daemon.compose_host`."""
        place, clock, wake = self.place, SimClock(self.loop), WakeSignal()
        app, docker, proxy = place.app, place.docker, SimProxy(place, self.step)
        consul = client_over(self.transport)
        presence = Presence(consul, place.node, 7080, is_coordinator=False)
        reporter = Reporter(partial(presence.write_report, app), partial(presence.register_host, app), clock)
        jobs = Jobs(app, docker, group, wake.call, clock)
        prober = Prober(group, lambda: wake.call("probe"), clock, self._probe)
        observer = Observer(docker, proxy, prober, jobs, clock=clock)
        self.process, self.reporter, self.jobs = Process(self.loop), reporter, jobs
        self.plan, self.steps_left = None, None
        self.reconciler = reconciler = Reconciler(
            app=app,
            node=place.node,
            boot_policy=BootPolicy(place.boot_wait_s, JOURNAL_MAX_AGE_S),
            observer=cast("Observer", _Seeing(observer, self.bug.seen)),
            executor=Executor(proxy, jobs, self._between),
            prober=prober,
            journal=self.journal,
            wake=wake,
            on_view=partial(self._show, identity, clock, reporter),
            memory=self.journal.memory,
            clock=clock,
            validate=self._validate,
            decide=self._decide,
        )
        pace = Pace(rng=self.rng, clock=clock)
        return (
            reconciler.run,
            partial(watch, consul, app.name, partial(_take, reconciler, reporter), pace=pace),
            partial(follow_docker, docker, observer, wake, clock),
            partial(follow_haproxy, proxy.worker, wake, clock),
            reporter.run,
        )

    def _validate(self, outcome: Outcome, last_applied: LastApplied, node: NodeName, boot: BootState) -> Validated:
        validated = self.bug.validate(outcome, last_applied, node, boot)
        self.place.monitor.validated(last_applied, validated.last_applied)
        self.desired, self.baseline = validated.desired, validated.last_applied
        return validated

    def _decide(self, decision_input: DecisionInput) -> Plan:
        self.plan = plan = self.bug.plan(decide(decision_input), decision_input)
        self.place.monitor.before_plan(plan)
        self.ticks_with_actions += bool(plan.actions)
        return plan

    def _show(self, identity: Identity, clock: SimClock, reporter: Reporter, view: HostView) -> None:
        reporter.publish(with_times(report_of(view, identity), reporter.latest, clock.wall()))
        self.telling.ticked(view)

    async def _probe(self, target: ProbeTarget) -> ProbeResult:
        slot = next(slot for slot in SlotName if self.place.app.address(slot) == target.address)
        is_ok = self.place.docker.answers(slot)
        return ProbeResult(is_ok=is_ok, detail="" if is_ok else "refused")

    async def _between(self, action: Action | None) -> None:
        """Watch each action as it begins; a plan that has not ended it by its end is its end."""
        self.action = action
        match action:
            case None:
                if self.steps_left is not None:
                    await self._die()
            case Switch():
                self.place.sync()
                self.place.monitor.before_switch(action)
            case Pull() | CancelPull() | Run() | Start() | Stop():
                await self.step(partial(self.place.monitor.before_job, action))
            case _:
                pass

    async def step(self, what: Callable[[], None]) -> None:
        """Do one thing that cannot be half done, unless the agent dies before it."""
        place = self.place
        if self.steps_left == 0:
            await self._die()
        place.sync()
        if not isinstance(self.action, Pull | CancelPull | Run | Start | Stop):
            place.proxy.check()
        before = place.monitor.taking_new()
        what()
        assert self.action is not None
        place.monitor.after_step(self.action, before)
        if self.steps_left is not None:
            self.steps_left -= 1

    async def _die(self) -> NoReturn:
        self.kill()
        self.telling.died()
        await self.loop.create_future()
        raise AssertionError("unreachable")


Loop = Callable[[], Coroutine[Any, Any, object]]


def _take(reconciler: Reconciler, reporter: Reporter, outcome: Outcome) -> None:
    """Hand the reconciler what Consul said; as the daemon does."""
    if isinstance(outcome, Known) and not isinstance(reconciler.outcome, Known):
        reporter.forget()
    reconciler.read(outcome)

"""One host inside the test process: the real loops over the fakes, a Consul over a socket, containers on loopback."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.watch import Pace, watch
from agent.adapters.host.journal import Journal
from agent.adapters.host.probe import Prober
from agent.core.host.build_report import HostView, Identity, report_of
from agent.core.host.observed import Worker
from agent.core.model.app import App, DeployTimings
from agent.core.model.keys import active_image, stage_image
from agent.core.model.names import AppName, Digest, ImageReference, NodeName, SlotName, parse_reference
from agent.core.model.report import NodeReport
from agent.core.model.spec import Probe, RunSpec
from agent.core.model.states import SlotPhase
from agent.pacing.clock import SystemClock
from agent.runtime.host.event_sources import follow_docker, follow_haproxy
from agent.runtime.host.executor import BeforeAction, Executor, go_on
from agent.runtime.host.jobs import Jobs
from agent.runtime.host.observer import Observer
from agent.runtime.host.reconciler import BootPolicy, Reconciler
from agent.runtime.wake import WakeSignal
from cluster.servers.ports import free_port
from tests.adapters.fakes.consul import FakeConsul
from tests.adapters.fakes.docker import FakeDaemon, FakeDocker
from tests.adapters.fakes.haproxy import FakeHaproxy
from tests.adapters.haproxy.backend import Backend
from tests.clocks import HurriedSystemClock

NODE = NodeName("web-1")
KNOBS = DeployTimings(
    healthy_deadline=5,
    min_healthy_time=0.05,
    bake_time=0.1,
    drain_timeout=20,
    visit_idle=1,
    stop_grace_period=0.5,
)


class _EndError(Exception):
    """Ends a task group."""


@asynccontextmanager
async def cancelled_in_the_end() -> AsyncIterator[asyncio.TaskGroup]:
    """Make a task group whose tasks are cancelled when the block ends, as those of a process are."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
            _end()
    except* _EndError:
        pass


def _end() -> None:
    raise _EndError


def make_app(**changes: object) -> App:
    """Return an app whose containers have loopback addresses of their own."""
    subnet = IPv4Network(f"127.{random.randrange(1, 255)}.{random.randrange(255)}.0/24")
    probe = Probe(path="/health", interval=0.02, timeout=1)
    fixed = {"name": AppName("shop"), "subnet": subnet, "container_port": free_port(), "knobs": KNOBS}
    return App.model_validate({**fixed, "default_spec": RunSpec(probe=probe), **changes})


@dataclass
class World:
    """What outlives an agent: Consul, Docker, HAProxy, what answers in the containers, and the disk."""

    home: Path
    consul: FakeConsul
    app: App = field(default_factory=make_app)
    daemon: FakeDaemon = field(default_factory=FakeDaemon)
    haproxy: FakeHaproxy = field(default_factory=FakeHaproxy)
    boot_policy: BootPolicy = field(default_factory=lambda: BootPolicy(boot_wait_s=5, journal_max_age_s=60))
    before_action: BeforeAction = go_on
    instances: int = 0

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.home / "shop.journal.json"

    def push(self, name: str) -> ImageReference:
        """Put an image into the registry."""
        reference = parse_reference(f"registry.local/shop:{name}")
        self.daemon.registry[reference] = Digest("sha256:" + name[0] * 64)
        return reference

    async def put(self, key: str, value: str) -> None:
        """Write a key as an operator does."""
        async with ConsulClient(self.consul.url) as client:
            await client.put(key, value.encode())

    async def activate(self, reference: ImageReference) -> None:
        """Set ``active/image``."""
        await self.put(active_image(self.app.name), reference)

    async def stage(self, reference: ImageReference) -> None:
        """Set ``stage/image``."""
        await self.put(stage_image(self.app.name), reference)

    def containers(self) -> set[str]:
        """Return the ids of all containers."""
        return set(self.daemon.containers)


@dataclass
class Agent:
    """One life of the agent."""

    reconciler: Reconciler
    observer: Observer
    jobs: Jobs
    reports: list[NodeReport]
    shown: asyncio.Event

    async def until(self, condition: Callable[[NodeReport], bool], *, deadline_s: float = 10) -> NodeReport:
        """Wait for a report that meets *condition*."""
        try:
            async with asyncio.timeout(deadline_s):
                while not self.reports or not condition(self.reports[-1]):
                    self.shown.clear()
                    await self.shown.wait()
        except TimeoutError as exc:
            last = self.reports[-1].model_dump_json(indent=1, exclude_defaults=True) if self.reports else "none"
            raise AssertionError(f"not within {deadline_s} s; last report: {last}") from exc
        return self.reports[-1]

    async def until_in(self, phase: SlotPhase, reference: ImageReference) -> NodeReport:
        """Wait until a slot with *reference* is in *phase*."""
        return await self.until(lambda report: phase_of(report, reference) is phase)


def slot_of(report: NodeReport, reference: ImageReference) -> SlotName | None:
    """Return the slot that holds *reference*."""
    return next((slot for slot, shown in report.slots.items() if shown.image == reference), None)


def phase_of(report: NodeReport, reference: ImageReference) -> SlotPhase | None:
    """Return what is done with *reference*; None when no slot holds it."""
    slot = slot_of(report, reference)
    return None if slot is None else report.slots[slot].phase


@asynccontextmanager
async def world(home: Path, consul: FakeConsul) -> AsyncIterator[World]:
    """Make a world whose containers are healthy wherever they run."""
    made = World(home, consul)
    backends = [Backend(slot, str(made.app.address(slot)), made.app.container_port) for slot in SlotName]
    for slot in made.haproxy.slots.values():
        slot.healthy = True
    try:
        for backend in backends:
            await backend.start()
        yield made
    finally:
        for backend in backends:
            await backend.stop()


@asynccontextmanager
async def agent(at: World, *, by_hand: bool = False) -> AsyncIterator[Agent]:
    """
    Run an agent until the block ends, as abruptly as by SIGKILL.

    Args:
        by_hand: start no loop; the test ticks.
    """
    async with cancelled_in_the_end() as group:
        made = _compose(at, group)
        reconciler = made.reconciler
        if not by_hand:
            client = await _client(at, group)
            pace = Pace(wait_s=5, grace_s=1, clock=HurriedSystemClock())
            group.create_task(reconciler.run())
            group.create_task(watch(client, at.app.name, reconciler.read, pace=pace))
            group.create_task(follow_docker(made.observer.docker, made.observer, reconciler.wake, SystemClock()))
            group.create_task(follow_haproxy(_worker(at), reconciler.wake, SystemClock()))
        yield made


def _compose(at: World, group: asyncio.TaskGroup) -> Agent:
    at.instances += 1
    identity = Identity(NODE, f"boot.{at.instances}", "test")
    wake, shown, reports = WakeSignal(), asyncio.Event(), list[NodeReport]()
    docker = FakeDocker(at.daemon, at.app, NODE)
    jobs = Jobs(at.app, docker, group, wake.call)
    prober = Prober(group, lambda: wake.call("probe"))
    observer = Observer(docker, at.haproxy, prober, jobs)
    journal = Journal(at.journal)

    def show(view: HostView) -> None:
        reports.append(report_of(view, identity))
        shown.set()

    reconciler = Reconciler(
        app=at.app,
        node=NODE,
        boot_policy=at.boot_policy,
        observer=observer,
        executor=Executor(at.haproxy, jobs, at.before_action),
        prober=prober,
        journal=journal,
        wake=wake,
        on_view=show,
        memory=journal.load().memory,
    )
    return Agent(reconciler, observer, jobs, reports, shown)


async def _client(at: World, group: asyncio.TaskGroup) -> ConsulClient:
    client = ConsulClient(at.consul.url)

    async def close_in_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await client.close()

    group.create_task(close_in_the_end())
    return client


def _worker(at: World) -> Callable[[], Awaitable[Worker]]:
    async def ask() -> Worker:
        return (await at.haproxy.observe()).worker

    return ask

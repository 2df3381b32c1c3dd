"""What can fail around an agent in the middle of a deploy, each to be broken and mended by a test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.scenarios.host import Scenario
from cluster.servers.clock import SteppedClock
from cluster.servers.consul import ConsulServer, consul_client, consul_cluster
from cluster.servers.dockerd import DockerDaemon, DockerService, separate_daemon
from cluster.servers.host import TEST_KNOBS, Host, Plan, host
from cluster.servers.images import Images
from cluster.servers.registry import Registry, registry
from cluster.servers.stalling_proxy import StallingProxy, stalling_proxy

Step = Callable[[], Awaitable[None]]
HOUR_S = 3600
KNOBS = {
    **TEST_KNOBS,
    "min_healthy_time": "300ms",
    "bake_time": "1s",
    "visit_idle": "2s",
    "image_pull_timeout": "2s",
    "keep_releases": "1",
}
PADDING_BYTES = 2 * 1024**2


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One thing that fails, and how it is put right.

    Args:
        shown: what the report has to say while it lasts; empty where it may end before anybody notices.
        costs: whether visitors may lose requests while it lasts; nothing else may ever.
        moves: whether it may end visits (the release they hold dies, or the clock says they were silent).
    """

    name: str
    inject: Step
    mend: Step
    shown: str = ""
    costs: bool = False
    moves: bool = False
    before_staging: bool = False
    """It matters for a pull only, and is there before that begins."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A host all of whose surroundings are its own, to break as a test likes."""

    host: Host
    scenario: Scenario
    consul: ConsulServer
    """The host's own Consul agent, a client."""
    servers: list[ConsulServer]
    docker: DockerService
    daemon: DockerDaemon
    registry: Registry
    stalling_proxy: StallingProxy
    clock: SteppedClock
    a: str
    b: str
    """The images, by way of the stalling proxy."""


@asynccontextmanager
async def machine(app: str, builder: DockerDaemon, *, live_restore: bool) -> AsyncIterator[Machine]:
    """Make a host that serves release a."""
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="tg-machine-")))
        clock = await SteppedClock.make(home)
        servers = await stack.enter_async_context(consul_cluster())
        consul = await stack.enter_async_context(consul_client(servers))
        service = await stack.enter_async_context(separate_daemon(["--live-restore"] if live_restore else []))
        store = await stack.enter_async_context(registry())
        front = await stack.enter_async_context(stalling_proxy(store.port, 0))
        front.open()
        images = Images(builder, store)
        pushed = [await images.testapp(version, padding_bytes=PADDING_BYTES) for version in ("a", "b")]
        a, b = (reference.replace(store.address, f"127.0.0.1:{front.port}") for reference in pushed)
        plan = Plan(app, knobs=KNOBS, env=clock.env)
        daemon = DockerDaemon(service.host, "")
        one = await stack.enter_async_context(host(plan, daemon, consul))
        scenario = Scenario(app, consul, [one])
        await scenario.consul.put(f"{app}/active/image", a)
        await one.start_agent()
        await scenario.activate(a)
        yield Machine(one, scenario, consul, servers, service, daemon, store, front, clock, a, b)


async def nothing() -> None:
    """Mend what mends itself."""


def haproxy_killed(at: Machine) -> Fault:
    """HAProxy dies; its service starts it again."""

    async def inject() -> None:
        at.host.haproxy.kill()

    return Fault("HAProxy killed", inject, at.host.haproxy.start, shown="HAProxy", costs=True)


def haproxy_reloaded(at: Machine) -> Fault:
    """HAProxy is reloaded, as after a renewed certificate."""
    return Fault("HAProxy reloaded", at.host.haproxy.reload, nothing)


def docker_restarted(at: Machine, *, live_restore: bool) -> Fault:
    """The Docker daemon ends and comes back; without live-restore its containers end with it."""

    async def start() -> None:
        await at.docker.start()

    name = f"Docker restarted {'with' if live_restore else 'without'} live-restore"
    return Fault(name, at.docker.stop, start, shown="Docker", costs=not live_restore, moves=not live_restore)


def consul_killed(at: Machine) -> Fault:
    """The Consul agent of the host is away."""

    async def inject() -> None:
        at.consul.kill()

    return Fault("Consul killed", inject, at.consul.restart, shown="Consul")


def consul_frozen(at: Machine) -> Fault:
    """The Consul agent of the host accepts and says nothing."""

    async def inject() -> None:
        at.consul.freeze()
        await asyncio.sleep(1.5)

    async def mend() -> None:
        at.consul.thaw()

    return Fault("Consul frozen", inject, mend)


def leader_lost(at: Machine) -> Fault:
    """The Consul servers lose their leader and elect another."""
    lost: list[ConsulServer] = []

    async def inject() -> None:
        (leader,) = [server for server in at.servers if server.process.alive and await server.is_leader()]
        leader.kill()
        lost.append(leader)

    async def mend() -> None:
        await lost.pop().restart()

    return Fault("Consul leader lost", inject, mend)


def registry_down(at: Machine) -> Fault:
    """Nothing answers where the images are."""

    async def start() -> None:
        await at.registry.start()

    return Fault("registry down", at.registry.stop, start, shown="attempt 2", before_staging=True)


def registry_stalled(at: Machine) -> Fault:
    """The registry sends half a layer and then nothing."""

    async def inject() -> None:
        at.stalling_proxy.close(PADDING_BYTES // 2)

    async def mend() -> None:
        at.stalling_proxy.open()

    return Fault("registry stalled", inject, mend, shown="stalled for", before_staging=True)


def clock_stepped(at: Machine, seconds: int) -> Fault:
    """The host's clock jumps, and is set right again."""

    async def inject() -> None:
        at.clock.step(seconds)
        await asyncio.sleep(1.5)

    async def mend() -> None:
        at.clock.step(0)

    return Fault(f"clock stepped by {seconds:+} s", inject, mend, moves=True)

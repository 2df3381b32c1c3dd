"""What the HAProxy suites need around the adapter: a real HAProxy between clients and backends, or the fake."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.adapters.haproxy.files import ProxyPaths
from agent.adapters.haproxy.runtime_api import HaproxySocket
from agent.core.host.observed import Proxy
from agent.core.model.app import App, DeployTimings
from agent.core.model.names import Pin, SlotName
from agent.core.model.states import AdminState
from agent.provision.haproxy_config import ProxyOptions, render
from cluster.servers.haproxy import Haproxy
from cluster.servers.ports import free_port
from cluster.servers.process import eventually
from cluster.traffic.http import Connection, Head
from tests.adapters.fakes.haproxy import FakeHaproxy
from tests.adapters.haproxy.backend import Backend

BLUE, GREEN = SlotName.BLUE, SlotName.GREEN
BLUE_PIN, GREEN_PIN = Pin("b" * 12), Pin("c" * 12)
PINS = {BLUE: BLUE_PIN, GREEN: GREEN_PIN}
READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
AnyHaproxy = HaproxySocket | FakeHaproxy


class Bench(Protocol):
    """What the contract suite may do besides calling the adapter."""

    @property
    def proxy(self) -> AnyHaproxy:
        """The adapter under test."""

    async def set_healthy(self, slot: SlotName, *, healthy: bool) -> None:
        """Make the slot's container answer its checks, or not be there."""

    async def reload(self) -> None:
        """Reload HAProxy."""

    async def go_away(self) -> None:
        """Stop HAProxy."""


async def known_good(proxy: AnyHaproxy, slot: SlotName) -> bool:
    """Say whether HAProxy finds a drained slot good within its deadline."""

    async def is_good() -> bool:
        return (await proxy.observe()).servers[slot].is_known_good

    return await eventually(is_good, deadline_s=8)


async def seen(proxy: AnyHaproxy, slot: SlotName, **wanted: object) -> bool:
    """Say whether the server of *slot* comes to have these values within 8 s."""

    async def matches() -> bool:
        server = (await proxy.observe()).servers[slot]
        return all(getattr(server, name) == value for name, value in wanted.items())

    return await eventually(matches, deadline_s=8)


@dataclass(slots=True)
class FakeBench:
    """The fake; nothing else runs."""

    proxy: FakeHaproxy = field(default_factory=FakeHaproxy)

    async def set_healthy(self, slot: SlotName, *, healthy: bool) -> None:
        """See `Bench`."""
        self.proxy.slots[slot].healthy = healthy

    async def reload(self) -> None:
        """See `Bench`."""
        self.proxy.restart()

    async def go_away(self) -> None:
        """See `Bench`."""
        self.proxy.away = True


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as a client sees it."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.head.status

    @property
    def version(self) -> str | None:
        """Name of the backend that answered."""
        return self.head.version

    @property
    def pin(self) -> str | None:
        """The pin of the cookie that was set, None without one."""
        if not self.head.set_cookies:
            return None
        assert len(self.head.set_cookies) == 1, self.head.set_cookies
        name, _, value = self.head.set_cookies[0].partition(";")[0].partition("=")
        pin, _, stamp = value.partition(".")
        assert name == "TIDEGATE"
        assert abs(int(stamp) - time.time()) < 5, value
        return pin


def cookie(pin: str, *, age_s: int = 0) -> str:
    """Return the header line of a visitor pinned *age_s* seconds ago."""
    return f"Cookie: TIDEGATE={pin}.{int(time.time()) - age_s}\r\n"


class RealBench:
    """HAProxy in master-worker mode between clients on `app.port` and one backend for each slot."""

    def __init__(self, home: Path, **app_settings: object) -> None:
        # A loopback network of 127/8 stands in for the containers': both slots share one port there.
        settings = {"name": "cs90", "bind": "127.0.0.1", "subnet": "127.0.0.0/24", "health_path": "/health"}
        ports = {"port": free_port(), "container_port": free_port()}
        self.app = App.model_validate({**settings, **ports, **app_settings})
        self.paths = ProxyPaths(
            runtime_socket=home / "admin.sock",
            state_dir=home,
            state_file=home / "servers.state",
            master_socket=home / "master.sock",
        )
        self.proxy: AnyHaproxy = HaproxySocket(self.app, self.paths)
        self.options = ProxyOptions(maxconn=500)
        self.config = home / "haproxy.cfg"
        self.haproxy = Haproxy(self.config, home)
        self.backends = {
            slot: Backend(slot.value, str(self.app.address(slot)), self.app.container_port) for slot in SlotName
        }

    def write_config(self) -> None:
        """Render the configuration and create the map files."""
        self.proxy.ensure_maps()
        # Checks five times as often: most of a test would be waiting for one.
        self.config.write_text(render(self.app, self.paths, self.options).replace(" inter 1s ", " inter 200ms "))

    async def set_healthy(self, slot: SlotName, *, healthy: bool) -> None:
        """See `Bench`."""
        await (self.backends[slot].start() if healthy else self.backends[slot].stop())

    async def reload(self) -> None:
        """See `Bench`."""
        await self.haproxy.reload()

    async def go_away(self) -> None:
        """See `Bench`."""
        await self.haproxy.stop()

    async def observe(self) -> Proxy:
        """Look through the adapter."""
        return await self.proxy.observe()

    async def stage(self, slot: SlotName) -> None:
        """Start the slot's backend and bring it to known good."""
        await self.set_healthy(slot, healthy=True)
        await self.proxy.set_state(slot, DRAIN)
        assert await known_good(self.proxy, slot)

    async def serve_blue_drain_green(self) -> None:
        """Blue serves new visitors, green only those pinned to it."""
        await self.stage(BLUE)
        await self.stage(GREEN)
        await self.proxy.set_pins(PINS)
        await self.proxy.serve(BLUE)

    async def connect(self) -> Connection:
        """Open a client connection."""
        return await Connection.open(f"127.0.0.1:{self.app.port}")

    async def get(self, path: str = "/", fields: str = "") -> Answer:
        """GET on a connection of its own; *fields* are further header lines."""
        connection = await self.connect()
        try:
            return await get_on(connection, path, fields)
        finally:
            connection.close()


async def get_on(connection: Connection, path: str = "/", fields: str = "") -> Answer:
    """GET on an open connection."""
    await connection.send("GET", path, fields)
    head = await connection.read_head()
    return Answer(head, await connection.read_body(head))


@asynccontextmanager
async def real_bench(home: Path, **app_settings: object) -> AsyncIterator[RealBench]:
    """Run a real HAProxy for *app_settings* until the context ends; no backend runs yet."""
    bench = RealBench(home, **app_settings)
    bench.write_config()
    try:
        await bench.haproxy.start()
        yield bench
    finally:
        await bench.haproxy.stop()
        for backend in bench.backends.values():
            await backend.close()


def visits(idle_s: int) -> DeployTimings:
    """Return knobs whose visits end after *idle_s* seconds."""
    return DeployTimings(visit_idle=idle_s)

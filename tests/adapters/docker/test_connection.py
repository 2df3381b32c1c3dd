"""The real daemon behind a connection that breaks, or that nobody answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import pytest_asyncio

from agent.adapters.docker.adapter import DockerAdapter
from agent.adapters.docker.pull import PullProgress
from agent.core.model.errors import DockerUnavailableError, ImagePullError
from agent.core.model.names import NodeName, parse_reference
from cluster.servers.dockerd import DockerDaemon
from tests.adapters.docker.rig import make_app

pytestmark = pytest.mark.real


class Wire:
    """A Unix socket that leads to *target*, or with no target to nobody; `cut` breaks what goes through it."""

    def __init__(self, path: Path, target: Path | None) -> None:
        self.path = path
        self._target = target
        self._writers: list[asyncio.StreamWriter] = []

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._target is None:
            await reader.read()
            return
        back, forth = await asyncio.open_unix_connection(str(self._target))
        self._writers.append(forth)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(self._pump(reader, forth), self._pump(back, writer))

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest_asyncio.fixture(name="wire")
async def _wire(request: pytest.FixtureRequest, docker: DockerDaemon, haproxy_dir: Path) -> AsyncIterator[Wire]:
    """A wire to the daemon, or to nobody; each test says to whom."""
    wire = Wire(haproxy_dir / "docker.sock", docker.socket if request.param == "daemon" else None)
    async with await asyncio.start_unix_server(wire.forward, wire.path):
        yield wire
        wire.cut()


@pytest_asyncio.fixture(name="adapter")
async def _adapter(wire: Wire) -> AsyncIterator[DockerAdapter]:
    app = make_app("wire", IPv4Network("172.29.1.0/24"))
    async with DockerAdapter(f"unix://{wire.path}", app, NodeName("web-1"), wire.path.parent / "none") as adapter:
        yield adapter


@pytest.mark.parametrize("wire", ["daemon"], indirect=True)
async def test_a_broken_event_stream_is_an_error(wire: Wire, adapter: DockerAdapter) -> None:
    """A lost connection is never taken for silence; the next call makes a new one."""
    async with asyncio.timeout(20), aclosing(adapter.events()) as events:
        assert await anext(events) == "connected"
        wire.cut()
        with pytest.raises(DockerUnavailableError):
            await anext(events)
        assert (await adapter.containers()).containers == ()


@pytest.mark.parametrize("wire", ["nobody"], indirect=True)
async def test_a_pull_that_is_never_answered_ends(adapter: DockerAdapter) -> None:
    """A daemon that accepts and says nothing is noticed by the stall time."""
    async with asyncio.timeout(20):
        with pytest.raises(ImagePullError, match="stalled for 500ms before the first byte"):
            await adapter.pull(parse_reference("127.0.0.1:1/a:1"), PullProgress(), 0.5)

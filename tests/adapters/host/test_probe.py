"""The health probe against real sockets that answer well, badly, late or not at all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from agent.adapters.host.probe import Prober, ProbeTarget, probe
from agent.core.model.names import ContainerId
from agent.pacing.clock import Clock
from cluster.servers.ports import free_port
from cluster.servers.process import eventually
from tests.clocks import ManualClock
from tests.raw_server import raw_server

LOOPBACK = IPv4Address("127.0.0.1")
ID = ContainerId("1" * 64)


class Answerer:
    """Answers every request with *answer*; None means silence, and the connection stays open."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        if self.answer is None:
            await reader.read()
        else:
            writer.write(self.answer)


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[Answerer]:
    server = Answerer(answer)
    async with raw_server(server.serve) as server.port:
        yield server


def http(status: int) -> bytes:
    return f"HTTP/1.1 {status} Word\r\nContent-Length: 2\r\n\r\nok".encode()


def target(port: int, path: str = "/health", *, timeout_s: float = 0.3) -> ProbeTarget:
    return ProbeTarget(LOOPBACK, port, path=path, interval_s=0.02, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (http(200), ""),
        (b"HTTP/1.0 200\r\n\r\n", ""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + http(200), ""),
        (http(500), "GET /health answered 500"),
        (http(301), "GET /health answered 301"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "GET /health answered something that is not HTTP"),
        (b"\x15\x03\x01\x00\x02", "GET /health answered something that is not HTTP"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, "GET /health answered something that is not HTTP"),
        (b"", "GET /health was not answered: the connection was closed"),
        (None, "GET /health: no answer within 300ms"),
    ],
)
async def test_a_probe_says_what_it_got(answer: bytes | None, detail: str) -> None:
    """Healthy is the expected status only; anything else is put in words."""
    async with answering(answer) as server:
        # Only silence is to be timed out, however busy the machine is.
        result = await probe(target(server.port, timeout_s=0.3 if answer is None else 30.0))
    assert (result.is_ok, result.detail) == (not detail, detail)


async def test_a_closed_port_is_refused() -> None:
    """Nobody listens: the container may be starting."""
    result = await probe(target(free_port()))
    assert (result.is_ok, result.detail) == (False, "GET /health: connection refused")


async def test_a_probe_asks_as_a_browser_would() -> None:
    """Path and Host are those of the app, the connection is not kept."""
    async with answering(http(204)) as server:
        asked = replace(target(server.port, "/up?deep=1"), host="shop.example", status=204)
        assert (await probe(asked)).is_ok
        lines = server.requests[0].decode().split("\r\n")
    assert lines[0] == "GET /up?deep=1 HTTP/1.1"
    assert {"Host: shop.example", "Connection: close"} <= set(lines)


@asynccontextmanager
async def probing(clock: Clock) -> AsyncIterator[tuple[Prober, list[None]]]:
    """A prober whose changes are noted; its tasks end with the block."""
    changes: list[None] = []
    async with asyncio.TaskGroup() as group:
        prober = Prober(group, lambda: changes.append(None), clock)
        yield prober, changes
        prober.keep_only(frozenset())


def has(prober: Prober, *, healthy: bool, detail: str = "") -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        found = prober.health[ID]
        return found.probed and (found.healthy_for_s is not None) == healthy and found.detail == detail

    return reached


async def test_health_is_counted_without_a_break() -> None:
    """The count runs while probes are good, ends with a bad one, and begins anew."""
    clock = ManualClock()
    async with answering(http(200)) as server, probing(clock) as (prober, changes):
        prober.watch(ID, target(server.port))
        assert (prober.health[ID].probed, prober.health[ID].healthy_for_s) == (False, None)
        assert await eventually(has(prober, healthy=True), deadline_s=5)
        clock.at += 1.0
        assert prober.health[ID].healthy_for_s == 1.0
        server.answer = http(503)
        assert await eventually(has(prober, healthy=False, detail="GET /health answered 503"), deadline_s=5)
        server.answer = http(200)
        assert await eventually(has(prober, healthy=True), deadline_s=5)
        assert prober.health[ID].healthy_for_s == 0.0
        assert len(changes) == 3


async def test_time_without_probes_is_no_healthy_time() -> None:
    """An agent that stood still for a minute has not seen a healthy minute."""
    clock = ManualClock()
    async with answering(http(200)) as server, probing(clock) as (prober, _):
        prober.watch(ID, target(server.port))
        assert await eventually(has(prober, healthy=True), deadline_s=5)
        clock.at += 60
        healthy_s = prober.health[ID].healthy_for_s
        assert healthy_s is not None
        assert healthy_s < 2


async def test_a_restarted_container_counts_anew() -> None:
    """The same container with another start time is another target; the same target again changes nothing."""
    clock = ManualClock()
    async with answering(http(200)) as server, probing(clock) as (prober, changes):
        asked = target(server.port)
        prober.watch(ID, asked)
        assert await eventually(has(prober, healthy=True), deadline_s=5)
        clock.at += 1
        prober.watch(ID, asked)
        assert prober.health[ID].healthy_for_s == 1.0
        prober.watch(ID, replace(asked, started_at="later"))
        assert not prober.health[ID].probed
        assert await eventually(has(prober, healthy=True), deadline_s=5)
        assert len(changes) == 2


async def test_an_unwatched_container_is_forgotten() -> None:
    """Its probes end at once, and nothing is known of it any more."""
    async with answering(None) as server, probing(ManualClock()) as (prober, changes):
        prober.watch(ID, target(server.port))
        prober.unwatch(ID)
        prober.unwatch(ID)
        assert (dict(prober.health), changes) == ({}, [])

"""The clients of the traffic generator: each way to fail gets its name, and what is no failure gets none."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from cluster.servers.ports import free_port
from cluster.traffic.clients import Clients, Mix
from cluster.traffic.generator import generate
from cluster.traffic.record import Fault, Kind, Record
from tests.raw_server import raw_server

Script = Sequence[bytes | None]
HEAD = b"HTTP/1.1 200 OK\r\nX-Version: a\r\n"
GOOD = HEAD + b"Content-Length: 2\r\n\r\nok"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Scripted:
    """
    A server whose connections each follow the next script: an answer for each request, then the connection ends.

    An answer of None is none at all: the connection stays open until the client leaves.
    """

    def __init__(self, scripts: Sequence[Script]) -> None:
        self._scripts = list(scripts)
        self.heads: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in self._scripts.pop(0):
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[Scripted]:
    server = Scripted(scripts)
    async with raw_server(server.serve) as server.port:
        yield server


def clients(port: int, record: Record, **mix: float) -> Clients:
    settings = Mix(**{"post_share": 0.0, "timeout_s": 1.0, **mix})  # type: ignore[arg-type]
    return Clients((f"127.0.0.1:{port}",), settings, record, random.Random(1))


def faults(record: Record) -> dict[Fault, int]:
    return record.outcome().failed_by_fault


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        pytest.param(GOOD, None, id="good"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\n\r\n", None, id="good-in-chunks"),
        pytest.param(b"", Fault.RESET, id="nothing"),
        pytest.param(HEAD, Fault.RESET, id="half-a-head"),
        pytest.param(HEAD + b"Content-Length: 9\r\n\r\nok", Fault.CUT, id="short-body"),
        pytest.param(CHUNKED + b"2\r\nok\r\n", Fault.CUT, id="chunks-without-end"),
        pytest.param(CHUNKED + b"9\r\nok", Fault.CUT, id="half-a-chunk"),
        pytest.param(CHUNKED + b"zz\r\n", Fault.BAD_REPLY, id="chunk-without-size"),
        pytest.param(GOOD.replace(b"200 OK", b"503 No"), Fault.STATUS_5XX, id="503"),
        pytest.param(GOOD.replace(b"200 OK", b"404 No"), Fault.BAD_REPLY, id="404"),
        pytest.param(GOOD.replace(b"X-Version", b"X-Other"), Fault.BAD_REPLY, id="no-version"),
        pytest.param(b"SSH-2.0-x\r\n\r\n", Fault.BAD_REPLY, id="no-http"),
    ],
)
async def test_an_answer_is_classed(answer: bytes, fault: Fault | None) -> None:
    """Every request is counted, and a bad answer has exactly one fault."""
    record = Record()
    async with scripted([answer]) as server:
        await clients(server.port, record).ask_anew()
    assert record.outcome().requests == {Kind.NEW: 1}
    assert faults(record) == ({} if fault is None else {fault: 1})
    assert record.open == 0


async def test_a_closed_port_refuses() -> None:
    """No connection is a failure of its own kind, kept with its details."""
    record = Record()
    await clients(free_port(), record).ask_anew()
    assert faults(record) == {Fault.REFUSED: 1}
    assert [(failure.kind, failure.path) for failure in record.failures] == [(Kind.NEW, "/")]


async def test_no_answer_in_time_is_a_timeout() -> None:
    """A server that accepts and says nothing does not hold the generator up."""
    record = Record()
    async with scripted([None]) as server:
        await clients(server.port, record, timeout_s=0.05).ask_anew()
    assert faults(record) == {Fault.TIMEOUT: 1}


async def test_an_idle_connection_closed_by_the_server_is_no_failure() -> None:
    """Closed between two requests: the second goes out on a new connection."""
    record = Record()
    async with scripted([GOOD], [GOOD]) as server:
        pool = clients(server.port, record, keepalive_pool=1)
        await pool.ask_again()
        await asyncio.sleep(0.02)
        await pool.ask_again()
        pool.close()
    assert (record.outcome().total, faults(record)) == (2, {})


async def test_a_connection_closed_under_a_request_is_a_reset() -> None:
    """The server took the second request on the connection and ended without an answer."""
    record = Record()
    async with scripted([GOOD, b""]) as server:
        pool = clients(server.port, record, keepalive_pool=1)
        await pool.ask_again()
        await pool.ask_again()
    assert faults(record) == {Fault.RESET: 1}


async def test_a_post_executed_twice_is_a_bad_reply() -> None:
    """The application says how often it executed the POST; anything but once is wrong."""
    record = Record()
    async with scripted([HEAD + b"Content-Length: 2\r\n\r\n2\n"]) as server:
        await clients(server.port, record, post_share=1.0).ask_anew()
    assert server.heads[0].startswith("POST /count?id=")
    assert faults(record) == {Fault.BAD_REPLY: 1}


async def test_a_stream_that_lacks_a_line_is_a_bad_reply() -> None:
    """A stream that ends in good order but without one of its lines was not delivered."""
    record = Record()
    body = b"7\r\ntick 2\n\r\n4\r\nend\n\r\n0\r\n\r\n"
    async with scripted([CHUNKED + body]) as server:
        await clients(server.port, record, stream_ms=2, stream_every_ms=1).stream()
    assert record.outcome().failed == {Kind.STREAM: {Fault.BAD_REPLY: 1}}


async def test_a_visitor_carries_all_cookies() -> None:
    """What was set is sent from then on, what was deleted is not, and the answers are one visitor's."""
    record = Record()
    first = HEAD + b"Set-Cookie: pin=x.1; Path=/\r\nSet-Cookie: app=7; HttpOnly\r\nContent-Length: 0\r\n\r\n"
    second = HEAD + b"Set-Cookie: app=; Max-Age=0\r\nContent-Length: 0\r\n\r\n"
    third = HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
    async with scripted([first], [second], [third]) as server:
        visit = clients(server.port, record, visit_every_s=0.05, visit_min_s=0.14, visit_max_s=0.14)
        await visit.visit(0.14, lambda: False)
    cookies = [[line for line in head.split("\r\n") if line.startswith("Cookie")] for head in server.heads]
    assert cookies == [[], ["Cookie: pin=x.1; app=7"], ["Cookie: pin=x.1"]]
    assert {sample.visitor for sample in record.samples} == {1}
    assert faults(record) == {}


async def test_what_is_open_at_the_end_of_the_run_has_failed() -> None:
    """Sending stops at once, the deadline for answers passes, and nothing is dropped from the count."""
    record = Record()
    stop = asyncio.Event()
    mix = Mix(new_rate=50, keepalive_rate=0, slow_rate=0, stream_rate=0, websocket_rate=0, visitors=0, finish_s=0.05)
    async with scripted(*[[None]] * 20) as server:
        silent = Clients((f"127.0.0.1:{server.port}",), mix, record, random.Random(1))
        asyncio.get_running_loop().call_later(0.1, stop.set)
        async with asyncio.timeout(1):
            await generate(silent, mix, record, stop)
    assert record.requests[Kind.NEW] >= 4
    assert faults(record) == {Fault.TIMEOUT: record.requests[Kind.NEW]}

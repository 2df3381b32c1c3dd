"""Kept connections to containers: no request fails, nobody is moved, and nothing is executed twice or lost."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.servers.traffic_app import compile_app
from cluster.traffic.http import Connection
from cluster.traffic.record import RequestFailedError
from tests.adapters.haproxy.rig import BLUE, DRAIN, PINS, RealBench, known_good
from tests.e2e.host.waves import Tally, Waves, send, two_apps
from tests.raw_server import raw_server

pytestmark = [pytest.mark.real, pytest.mark.traffic, pytest.mark.slow]

SHORT = {30: Waves(32, 0.03, 120), 1000: Waves(32, 1.0, 8), 5000: Waves(100, 5.0, 2)}
"""By the milliseconds after which the app closes an idle connection."""
LONG = {30: Waves(32, 0.03, 1500), 1000: Waves(32, 1.0, 70), 5000: Waves(100, 5.0, 14)}


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="program")
async def _program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return await compile_app(tmp_path_factory.mktemp("testapp"))


async def _run(home: Path, program: Path, idle_close_ms: int, waves: Waves) -> Tally:
    own = home / str(idle_close_ms)
    own.mkdir()
    async with two_apps(own, program, idle_close_ms) as bench:
        return await send(bench, waves, random.Random(idle_close_ms))


async def _all(home: Path, program: Path, waves: dict[int, Waves]) -> dict[int, Tally]:
    async with asyncio.TaskGroup() as group:
        running = {ms: group.create_task(_run(home, program, ms, each)) for ms, each in waves.items()}
    return {ms: task.result() for ms, task in running.items()}


async def test_no_request_is_lost_to_an_app_that_closes_idle_connections(haproxy_dir: Path, program: Path) -> None:
    """After 30 ms, 1 s and 5 s, with requests sent just then; each POST is executed once, pinned visitors stay."""
    tallies = await _all(haproxy_dir, program, SHORT)
    assert {ms: tally for ms, tally in tallies.items() if not tally.is_clean} == {}
    assert sum(tally.requests for tally in tallies.values()) > 4000
    assert sum(tally.posted for tally in tallies.values()) > 1000


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_no_request_is_lost_to_such_an_app_in_the_long_run(haproxy_dir: Path, program: Path) -> None:
    """The same for more than a minute and about 50,000 requests."""
    tallies = await _all(haproxy_dir, program, LONG)
    assert {ms: tally for ms, tally in tallies.items() if not tally.is_clean} == {}
    assert sum(tally.requests for tally in tallies.values()) > 50_000


def _one_pool(text: str) -> str:
    """Let all requests share connections, as HAProxy does by itself."""
    text, found = re.subn(r" (pool-conn-name|sni) rand\(\S+", "", text.replace("    default-server sni", "    # sni"))
    assert found
    return text


def _plainly(text: str) -> str:
    return _one_pool(text).replace(" empty-response", "").replace("    http-reuse always\n", "")


def _redispatch_first(text: str) -> str:
    return text.replace("option redispatch 2", "option redispatch 1")


async def _found(bench: RealBench, harm: Callable[[Tally], bool]) -> bool:
    """Send up to twice as many waves as the short run does, but no more than it takes."""
    for seed in range(12):
        if harm(await send(bench, Waves(32, 0.03, 20), random.Random(seed))):
            return True
    return False


async def test_with_plain_reuse_the_same_waves_lose_requests(haproxy_dir: Path, program: Path) -> None:
    """HAProxy's default is to share connections between all requests and to send none again."""
    async with two_apps(haproxy_dir, program, 30, _plainly) as bench:
        assert await _found(bench, lambda tally: bool(tally.failed))


async def test_with_a_redispatch_at_once_the_same_waves_move_visitors(haproxy_dir: Path, program: Path) -> None:
    """A request that is sent again must not leave the slot of its visitor's pin."""
    async with two_apps(haproxy_dir, program, 30, _redispatch_first) as bench:
        assert await _found(bench, lambda tally: tally.moved > 0)


class _HangsUp:
    """Healthy, but it executes every request and then ends the connection without an answer, as a crash would."""

    def __init__(self) -> None:
        self.executed: dict[str, int] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        what = " ".join(head.split(" ", 2)[:2])
        if what == "GET /health":
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        else:
            self.executed[what] = self.executed.get(what, 0) + 1


@asynccontextmanager
async def _hanging_up(home: Path, edit: Callable[[str], str] = str) -> AsyncIterator[tuple[RealBench, _HangsUp]]:
    bench, app = RealBench(home), _HangsUp()
    bench.write_config()
    bench.config.write_text(edit(bench.config.read_text()))
    async with raw_server(app.serve, str(bench.app.address(BLUE)), bench.app.container_port):
        try:
            await bench.haproxy.start()
            await bench.proxy.set_state(BLUE, DRAIN)
            assert await known_good(bench.proxy, BLUE)
            await bench.proxy.set_pins(PINS)
            await bench.proxy.serve(BLUE)
            yield bench, app
        finally:
            await bench.haproxy.stop()


def _without_the_rule(text: str) -> str:
    assert "    http-request disable-l7-retry" in text
    return text.replace("    http-request disable-l7-retry", "    # no")


def _showing_keys(retries: int) -> Callable[[str], str]:
    def edited(text: str) -> str:
        text = text.replace("    balance roundrobin", "    http-after-response set-header X-Key %[var(txn.tg_key)]")
        return text.replace("    retries 3", f"    retries {retries}")

    return edited


async def _key_of_the_last_attempt(bench: RealBench, method: str) -> int:
    connection = await Connection.open(f"127.0.0.1:{bench.app.port}")
    try:
        async with asyncio.timeout(10):
            await connection.send(method, "/", "", b"")
            return int((await connection.read_head()).fields["x-key"])
    finally:
        connection.close()


async def _ask(bench: RealBench, method: str, path: str, body: bytes = b"") -> None:
    """Send a request that gets no good answer."""
    connection = await Connection.open(f"127.0.0.1:{bench.app.port}")
    try:
        async with asyncio.timeout(10):
            await connection.send(method, path, "", body)
            assert (await connection.read_head()).status == 502
    except RequestFailedError:
        pass
    finally:
        connection.close()


ONCE = [("POST", b""), ("POST", b"a=1"), ("PUT", b"x"), ("PATCH", b"x"), ("DELETE", b""), ("GET", b"x"), ("LOCK", b"")]


async def test_what_may_have_been_executed_is_not_sent_again(haproxy_dir: Path) -> None:
    """Unless it is a GET, HEAD or OPTIONS without a body: then at most three times more."""
    async with _hanging_up(haproxy_dir) as (bench, app):
        for number, (method, body) in enumerate(ONCE):
            await _ask(bench, method, f"/{number}", body)
        assert app.executed == {f"{method} /{number}": 1 for number, (method, _) in enumerate(ONCE)}
        app.executed.clear()
        for method in ("GET", "HEAD", "OPTIONS"):
            await _ask(bench, method, "/")
        assert app.executed == {"GET /": 4, "HEAD /": 4, "OPTIONS /": 4}


async def test_without_the_rule_it_would_be_sent_again(haproxy_dir: Path) -> None:
    """The setting that repeats repeats all, if it is not told."""
    async with _hanging_up(haproxy_dir, _without_the_rule) as (bench, app):
        await _ask(bench, "POST", "/")
    assert app.executed["POST /"] > 1


@pytest.mark.parametrize("retries", [0, 1, 2, 3])
async def test_only_first_attempts_of_what_may_be_repeated_share_connections(haproxy_dir: Path, retries: int) -> None:
    """A kept connection carries requests of one key: each retry, and each request that is sent once, has its own."""
    async with _hanging_up(haproxy_dir, _showing_keys(retries)) as (bench, _):
        repeated = [await _key_of_the_last_attempt(bench, "GET") for _ in range(8)]
        once = [await _key_of_the_last_attempt(bench, "POST") for _ in range(8)]
    # Unlike numbers of 31 bits, so none that an overflow has capped either.
    assert 1 not in once
    assert len(set(once)) == len(once)
    assert max(once + repeated) < 2**31
    if retries == 0:
        assert set(repeated) == {1}
    else:
        assert 1 not in repeated
        assert len({*repeated, *once}) == len(repeated) + len(once)

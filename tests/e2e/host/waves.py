"""
Requests in waves, with pauses as long as an app keeps idle connections: there its closing and a request cross.

Behind a real HAProxy on Tidegate's configuration stand two test applications on loopback: blue serves new visitors,
green drains and has pinned ones.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cluster.servers.process import ServerProcess, answers
from cluster.traffic.http import Connection, require_good
from cluster.traffic.record import RequestFailedError
from tests.adapters.haproxy.rig import BLUE, DRAIN, GREEN, GREEN_PIN, PINS, RealBench, cookie, known_good

ANSWER_WITHIN_S = 10.0
_POST_SHARE, _PINNED_SHARE, _NEW_SHARE = 0.3, 0.4, 0.15


@dataclass(slots=True)
class Tally:
    """What became of the requests."""

    requests: int = 0
    posted: int = 0
    """POSTs, each with an id of its own."""
    executed: int = 0
    """POSTs that the two apps executed, by their own count."""
    failed: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    """Ids that were executed before."""
    moved: int = 0
    """Answers from another slot than the visitor's."""

    @property
    def is_clean(self) -> bool:
        """Nothing failed, nobody was moved, every POST was executed exactly once."""
        return not self.failed and not self.repeated and not self.moved and self.executed == self.posted


@dataclass(frozen=True, slots=True)
class Waves:
    """*size* clients send one request each within *spread_s*, then pause for *pause_s*."""

    size: int
    pause_s: float
    count: int
    spread_s: float = 0.004


class _Client:
    """One client; it keeps its connection until the server ends it, or for one request only."""

    def __init__(self, target: str, tally: Tally, rng: random.Random) -> None:
        self._target = target
        self._tally = tally
        self._prefix = f"{rng.getrandbits(48):012x}"
        self._rng = rng
        self._connection: Connection | None = None

    async def ask(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._tally.requests += 1
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._exchange()
        except (RequestFailedError, TimeoutError) as exc:
            self._tally.failed.append(f"{type(exc).__name__}: {exc}")
            self.close()

    async def _exchange(self) -> None:
        if self._connection is None or self._connection.is_closed_by_server:
            self._connection = await Connection.open(self._target)
        is_pinned = self._rng.random() < _PINNED_SHARE
        fields = cookie(GREEN_PIN) if is_pinned else ""
        method, path = "GET", "/"
        if self._rng.random() < _POST_SHARE:
            method, path = "POST", f"/count?id={self._prefix}-{self._tally.posted}"
            self._tally.posted += 1
        await self._connection.send(method, path, fields)
        head = await self._connection.read_head()
        body = await self._connection.read_body(head)
        if require_good(head) != (GREEN.value if is_pinned else BLUE.value):
            self._tally.moved += 1
        if method == "POST" and body != b"1\n":
            self._tally.repeated.append(path)
        if not head.keeps_alive or self._rng.random() < _NEW_SHARE:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


async def send(bench: RealBench, waves: Waves, rng: random.Random) -> Tally:
    """Send all *waves* and count what the apps executed."""
    tally = Tally()
    before = await _executed(bench)
    clients = [_Client(f"127.0.0.1:{bench.app.port}", tally, rng) for _ in range(waves.size)]
    try:
        for _ in range(waves.count):
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client.ask(rng.uniform(0, waves.spread_s)), name="request")
            await asyncio.sleep(max(0.0, waves.pause_s - rng.uniform(0, 2 * waves.spread_s)))
    finally:
        for client in clients:
            client.close()
    tally.executed = await _executed(bench) - before
    return tally


async def _executed(bench: RealBench) -> int:
    """Ask the apps themselves; nothing of HAProxy is in between."""
    return sum([await _executed_by(f"{bench.app.address(slot)}:{bench.app.container_port}") for slot in (BLUE, GREEN)])


async def _executed_by(target: str) -> int:
    connection = await Connection.open(target)
    try:
        await connection.send("GET", "/count", "Connection: close\r\n")
        body = await connection.read_body(await connection.read_head())
    finally:
        connection.close()
    found = re.search(rb"executed=(\d+)", body)
    assert found, body
    return int(found[1])


@asynccontextmanager
async def two_apps(
    home: Path, program: Path, idle_close_ms: int, edit: Callable[[str], str] = str
) -> AsyncIterator[RealBench]:
    """Run HAProxy on the rendered configuration as *edit* leaves it, and the apps behind it, until the end."""
    bench = RealBench(home)
    bench.write_config()
    text = bench.config.read_text()
    bench.config.write_text(edit(text))
    async with AsyncExitStack() as stack:
        for slot in (BLUE, GREEN):
            address, port = str(bench.app.address(slot)), bench.app.container_port
            env = {"HOST": address, "PORT": str(port), "VERSION": slot.value, "IDLE_CLOSE_MS": str(idle_close_ms)}
            app = ServerProcess([str(program)], log=home / f"{slot.value}.log", env=env)
            stack.callback(app.kill)
            await app.start(partial(answers, f"http://{address}:{port}/health"), deadline_s=5)
        stack.push_async_callback(bench.haproxy.stop)
        await bench.haproxy.start()
        for slot in (BLUE, GREEN):
            await bench.proxy.set_state(slot, DRAIN)
            assert await known_good(bench.proxy, slot)
        await bench.proxy.set_pins(PINS)
        await bench.proxy.serve(BLUE)
        yield bench

"""
The clients of the traffic generator, one method for each kind of traffic.

Each method is one request (or stream, conversation, visit) from its first byte to its last, counted by an `Attempt`.
When to send is the generator's business; a client never waits for another one.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.traffic.http import Connection, Head, require_good
from cluster.traffic.record import Attempt, Fault, Kind, Record, RequestFailedError
from cluster.traffic.websocket import open_websocket

_CLOSE = "Connection: close\r\n"


@dataclass(frozen=True, slots=True)
class Mix:
    """
    How much of each kind is sent: rates are per second, `visitors` is how many there are at any time.

    A visitor stays for a random time between the two bounds and asks every `visit_every_s`; then another one comes.
    `post_share` of the new and keep-alive requests are POSTs that must be executed exactly once.
    """

    new_rate: float = 160
    keepalive_rate: float = 140
    keepalive_pool: int = 30
    slow_rate: float = 5
    slow_ms: int = 3000
    stream_rate: float = 3
    stream_ms: int = 6000
    stream_every_ms: int = 200
    websocket_rate: float = 2
    websocket_s: float = 6
    websocket_every_s: float = 0.3
    visitors: int = 40
    visit_every_s: float = 0.5
    visit_min_s: float = 10
    visit_max_s: float = 30
    post_share: float = 0.1
    timeout_s: float = 15
    """For an answer, beyond the time that it takes by intent."""
    finish_s: float = 20
    """For all that is open when sending stops; what is not done then has failed."""


@dataclass(slots=True)
class _Visitor:
    number: int
    jar: dict[str, str] = field(default_factory=dict)
    idle: Connection | None = None
    is_known: bool = False


class Clients:
    """
    All clients of one run, which share the targets, the keep-alive pool and the books.

    Several targets stand for a balancer without stickiness: each new connection takes one at random.
    """

    def __init__(self, targets: tuple[str, ...], mix: Mix, record: Record, rng: random.Random) -> None:
        self._targets = targets
        self._mix = mix
        self._record = record
        self._rng = rng
        self._run = f"{rng.getrandbits(32):08x}"
        self._posts = 0
        self._pool: deque[Connection] = deque()
        self._pool_size = 0

    async def ask_anew(self) -> None:
        """Ask on a connection of its own."""
        path, is_post = self._draw_path()
        with Attempt(self._record, Kind.NEW, path) as attempt:
            async with asyncio.timeout(self._mix.timeout_s):
                connection = await self._open()
                try:
                    await self._exchange(connection, attempt, path, _CLOSE, is_post=is_post)
                finally:
                    connection.close()

    async def ask_again(self) -> None:
        """Ask on the connection of the pool that was idle longest, or on one more if all are busy."""
        path, is_post = self._draw_path()
        with Attempt(self._record, Kind.KEEPALIVE, path) as attempt:
            async with asyncio.timeout(self._mix.timeout_s):
                connection = self._take_idle()
                if connection is None:
                    connection = await self._open()
                keep = False
                try:
                    head = await self._exchange(connection, attempt, path, "", is_post=is_post)
                    keep = head.keeps_alive and len(self._pool) < 4 * self._mix.keepalive_pool
                finally:
                    if keep:
                        self._pool.append(connection)
                    else:
                        connection.close()

    async def ask_slowly(self) -> None:
        """Ask for an answer that takes its time."""
        path = f"/slow?ms={self._mix.slow_ms}"
        with Attempt(self._record, Kind.SLOW, path) as attempt:
            async with asyncio.timeout(self._mix.slow_ms / 1000 + self._mix.timeout_s):
                connection = await self._open()
                try:
                    await self._exchange(connection, attempt, path, _CLOSE)
                finally:
                    connection.close()

    async def stream(self) -> None:
        """Read a stream to its last line; every line must be there."""
        path = f"/stream?ms={self._mix.stream_ms}&every={self._mix.stream_every_ms}"
        ticks = range(1, self._mix.stream_ms // self._mix.stream_every_ms + 1)
        expected = "".join(f"tick {tick}\n" for tick in ticks) + "end\n"
        with Attempt(self._record, Kind.STREAM, path) as attempt:
            async with asyncio.timeout(self._mix.stream_ms / 1000 + self._mix.timeout_s):
                connection = await self._open()
                try:
                    await self._exchange(connection, attempt, path, _CLOSE, expected=expected.encode())
                finally:
                    connection.close()

    async def converse(self) -> None:
        """Hold a WebSocket open; every message must come back, and the version must not change."""
        with Attempt(self._record, Kind.WEBSOCKET, "/ws") as attempt:
            async with asyncio.timeout(self._mix.websocket_s + self._mix.timeout_s):
                connection = await self._open()
                try:
                    head, socket = await open_websocket(connection, "/ws")
                    attempt.answered(require_good(head))
                    if (greeting := await socket.receive()) != head.version:
                        raise RequestFailedError(Fault.BAD_REPLY, f"{head.version} greets as {greeting!r}")
                    for number in range(round(self._mix.websocket_s / self._mix.websocket_every_s)):
                        await asyncio.sleep(self._mix.websocket_every_s)
                        await socket.send(f"message {number}")
                        if (echo := await socket.receive()) != f"message {number}":
                            raise RequestFailedError(Fault.BAD_REPLY, f"message {number} came back as {echo!r}")
                    await socket.close()
                finally:
                    connection.close()

    async def visit(self, longest_s: float, is_over: Callable[[], bool]) -> None:
        """
        Be a visitor with a cookie jar for a random time of at most *longest_s*, or until *is_over*.

        Requests go by the clock, also when the one before is still open. Only the first waits for its answer: before
        it there is no cookie to keep, as a browser has none before it has the page.
        """
        loop = asyncio.get_running_loop()
        self._record.visitors += 1
        visitor = _Visitor(self._record.visitors)
        next_at = loop.time()
        end_at = next_at + self._rng.uniform(min(self._mix.visit_min_s, longest_s), longest_s)
        try:
            async with asyncio.TaskGroup() as group:
                while loop.time() < end_at and not is_over():
                    if visitor.is_known:
                        group.create_task(self._ask_as(visitor, "/"), name=f"visitor-{visitor.number}")
                    else:
                        await self._ask_as(visitor, "/cookie")
                    next_at = max(next_at + self._mix.visit_every_s, loop.time())
                    await asyncio.sleep(next_at - loop.time())
        finally:
            if visitor.idle is not None:
                visitor.idle.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._pool:
            self._pool.popleft().close()

    async def _ask_as(self, visitor: _Visitor, path: str) -> None:
        stays = self._rng.random() < 0.5
        fields = "" if stays else _CLOSE
        if visitor.jar:
            fields += "Cookie: " + "; ".join(f"{name}={value}" for name, value in visitor.jar.items()) + "\r\n"
        with Attempt(self._record, Kind.VISITOR, path, visitor.number) as attempt:
            async with asyncio.timeout(self._mix.timeout_s):
                connection = visitor.idle if stays else None
                if connection is not None:
                    visitor.idle = None
                if connection is None or connection.is_closed_by_server:
                    connection = await self._open()
                keep = False
                try:
                    head = await self._exchange(connection, attempt, path, fields)
                    visitor.is_known = True
                    for cookie in head.set_cookies:
                        _put_in_jar(visitor.jar, cookie)
                    keep = stays and head.keeps_alive and visitor.idle is None
                finally:
                    if keep:
                        visitor.idle = connection
                    else:
                        connection.close()

    async def _exchange(
        self,
        connection: Connection,
        attempt: Attempt,
        path: str,
        fields: str,
        *,
        is_post: bool = False,
        expected: bytes | None = None,
    ) -> Head:
        if is_post:
            expected = b"1\n"  # how often the application has executed it
        await connection.send("POST" if is_post else "GET", path, fields, b"x" * 200 if is_post else b"")
        head = await connection.read_head()
        attempt.answered(require_good(head))
        body = await connection.read_body(head)
        if expected is not None and body != expected:
            raise RequestFailedError(Fault.BAD_REPLY, f"{expected[-20:]!r} expected, got {body[-20:]!r}")
        return head

    async def _open(self) -> Connection:
        return await Connection.open(self._rng.choice(self._targets))

    def _take_idle(self) -> Connection | None:
        """Fill the pool before using it again, so that its size is as asked."""
        if self._pool_size < self._mix.keepalive_pool:
            self._pool_size += 1
            return None
        while self._pool:
            connection = self._pool.popleft()
            if not connection.is_closed_by_server:
                return connection
            connection.close()
        return None

    def _draw_path(self) -> tuple[str, bool]:
        if self._rng.random() >= self._mix.post_share:
            return "/", False
        self._posts += 1
        return f"/count?id={self._run}-{self._posts}", True


def _put_in_jar(jar: dict[str, str], set_cookie: str) -> None:
    pair, *attributes = set_cookie.split(";")
    name, _, value = pair.strip().partition("=")
    if any(attribute.strip().lower() == "max-age=0" for attribute in attributes):
        jar.pop(name, None)
    else:
        jar[name] = value

"""What the Consul contract suites share: a server by kind, an app of one's own per test, and what a watch told."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeVar

import pytest

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.watch import Pace, watch
from agent.core.model.keys import KeySnapshot, Known, Outcome
from agent.core.model.names import AppName, parse_app
from agent.pacing.clock import Clock
from tests.adapters.consul.real import real_running
from tests.adapters.fakes.consul import running as fake_running
from tests.clocks import HurriedSystemClock

Kind = TypeVar("Kind", bound=Outcome)
BOTH = pytest.mark.parametrize("kind", ["fake", pytest.param("real", marks=[pytest.mark.real, pytest.mark.slow])])
WITHIN_S = 15.0
_numbers = itertools.count(1)


class Server(Protocol):
    """What both kinds of server can do."""

    @property
    def url(self) -> str: ...
    async def start(self) -> None: ...
    async def kill(self) -> None: ...
    async def freeze(self) -> None: ...
    async def thaw(self) -> None: ...
    async def snapshot(self) -> bytes: ...
    async def restore(self, saved: bytes) -> None: ...
    async def grant(self, rules: Mapping[str, str]) -> str: ...
    async def revoke(self, token: str) -> None: ...


def server_of(kind: str, *, acl: bool = False) -> AbstractAsyncContextManager[Server]:
    """Run a server of the test's own."""
    return fake_running(acl=acl) if kind == "fake" else real_running(acl=acl)


def new_app() -> AppName:
    """Return an app name no other test of this run uses: one real server serves many tests."""
    return parse_app(f"app{next(_numbers)}")


def hurried(wait_s: float = 60.0, grace_s: float = 1.0, *, clock: Clock | None = None) -> Pace:
    """Return a pace whose pauses are short; by default only a wake-up, not the wait, can be in time for a test."""
    return Pace(wait_s=wait_s, grace_s=grace_s, clock=clock or HurriedSystemClock())


class Told:
    """What a watch told, in order."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.contacts = 0
        self._news = asyncio.Event()

    def tell(self, outcome: Outcome) -> None:
        """Take an outcome."""
        self.outcomes.append(outcome)
        self._news.set()

    def touch(self) -> None:
        """Take a contact."""
        self.contacts += 1
        self._news.set()

    async def until(self, kind: type[Kind], *, count: int = 1, within_s: float = WITHIN_S) -> Kind:
        """Return the last outcome once it is a *kind* and at least *count* were told."""
        await self.hold(lambda: len(self.outcomes) >= count and isinstance(self.outcomes[-1], kind), within_s)
        last = self.outcomes[-1]
        assert isinstance(last, kind)
        return last

    async def snapshot(self, *, count: int = 1) -> KeySnapshot:
        """Return the last snapshot once at least *count* outcomes were told."""
        return (await self.until(Known, count=count)).snapshot

    async def hold(self, condition: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Wait until *condition* holds after some news."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"not told within {within_s} s; told so far: {self.outcomes}")


@asynccontextmanager
async def watching(client: ConsulClient, app: AppName, pace: Pace | None = None) -> AsyncIterator[Told]:
    """Watch *app* until the block ends."""
    told = Told()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(
            watch(client, app, told.tell, on_contact=told.touch, pace=pace or hurried()), name=f"watch {app}"
        )
        try:
            yield told
        finally:
            task.cancel()

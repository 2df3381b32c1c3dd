"""
A small fleet for the command line: a Consul, hosts that obey the record at once, and the coordinator, in a thread.

The command line runs in the test's own thread, as an operator's process would; nothing of it is replaced.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from structlog.testing import capture_logs

from agent.adapters.consul.fleet import FleetReading, read_fleet
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import AGENT_SERVICE
from agent.adapters.consul.transport import Request as HttpRequest
from agent.adapters.consul.transport import TokenSource
from agent.core.model.names import AppName, Digest, ImageReference, NodeName
from agent.core.rollout.advance import Transition, advance
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet
from agent.runtime.fleet.coordinator import Coordinator
from agent.runtime.fleet.leader import Leader
from agent.runtime.wake import WakeSignal
from tests.clocks import HurriedSystemClock
from tests.fake_hosts import TICK_S, FakeHosts, digest_of, first_report

T = TypeVar("T")


@dataclass
class FakeFleet:
    """The Consul, who lives there, and a way to do things in its loop."""

    url: str
    app: AppName
    loop: asyncio.AbstractEventLoop
    client: ConsulClient
    hosts: FakeHosts
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* in the fleet's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def put(self, key: str, value: str | bytes) -> None:
        """Write a key below the app's root, or a whole key that begins with the app's name."""
        whole = key if key.startswith(self.app) else f"{self.app}/{key}"
        self.do(self.client.put(whole, value if isinstance(value, bytes) else value.encode()))

    def value(self, key: str) -> str | None:
        """Return a key's value."""
        whole = key if key.startswith(self.app) else f"{self.app}/{key}"
        entry = self.do(self.client.get(whole))
        return entry.value.decode() if entry else None

    @property
    def record(self) -> Decision | None:
        """The rollout record."""
        return self.do(self._read()).record

    def until(self, condition: Callable[[Decision], bool], *, within_s: float = 10) -> Decision:
        """Wait until the record meets *condition*; return it."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            record = self.record
            if record is not None and condition(record):
                return record
            time.sleep(TICK_S)
        raise AssertionError(f"not within {within_s} s: {self.record}")

    def host(self, node: str, *, image: str = "registry.example/shop:a") -> None:
        """Let a host live that serves *image*."""
        self.hosts.reports[node] = first_report(self.app, node, image)
        self.do(self.hosts.report(node))
        self.agent(node, app=self.app)

    def leave(self, node: str) -> None:
        """Let a host leave traffic on purpose."""
        self.hosts.reports[node] = self.hosts.reports[node].replace(is_leaving=True)
        self.do(self.hosts.report(node))

    def agent(self, node: str, **meta: str) -> None:
        """Let an agent live, as the catalog shows it; `status` is its check's."""
        status = meta.pop("status", "passing")
        name = f"{self.app}-{node}-agent"
        service = {
            "ID": name,
            "Service": AGENT_SERVICE,
            "Port": 1,
            "Meta": {"node": node, "instance": f"{node}-boot", "version": "1.2.3"} | meta,
        }
        check = {"CheckID": name, "Name": name, "ServiceID": name, "Status": status}
        body = {"Node": f"{self.app}-{node}", "Address": "127.0.0.1", "Service": service, "Check": check}
        self.do(self.client.http.send(HttpRequest("PUT", "/v1/catalog/register", body=json.dumps(body).encode())))

    def coordinate(self) -> None:
        """Let an agent coordinate, from now on: the shipped coordinator, with brief pauses."""
        self.agent("core-1", app="", coordinator="true")
        self.do(self._lead())

    async def _lead(self) -> None:
        clock, wake, elected = HurriedSystemClock(), WakeSignal(), asyncio.Event()

        def on_change() -> None:
            wake.call("lease")
            elected.set()

        leader = Leader(self.client, self.app, NodeName("core-1"), "core-1-boot", on_change, clock=clock)
        coordinator = Coordinator(self.client, leader, _digest, wake, clock, advance=self._advance)
        self._tasks = [asyncio.create_task(coordinator.run()), asyncio.create_task(self.hosts.run())]
        await elected.wait()

    def _advance(self, record: Decision, fleet: Fleet, now: float) -> Transition:
        return Transition() if record.phase is self.hosts.stops_at else advance(record, fleet, now)

    async def _read(self) -> FleetReading:
        return await read_fleet(self.client, self.app)

    async def close(self) -> None:
        """Let the coordinator and the hosts end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _cancel_rest() -> None:
    """End what the Consul still had to answer."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


async def _digest(image: ImageReference) -> Digest:
    return digest_of(image)


@contextmanager
def fake_fleet(
    url: Callable[[AsyncExitStack], Coroutine[Any, Any, str]], app: AppName, token: str = ""
) -> Iterator[FakeFleet]:
    """Open a fake fleet; *url* starts its Consul in the fleet's loop, or names one that runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake_fleet")
    thread.start()
    stack = AsyncExitStack()

    async def build() -> FakeFleet:
        where = await url(stack)
        client = await stack.enter_async_context(ConsulClient(where, token=TokenSource(token)))
        return FakeFleet(where, app, loop, client, FakeHosts(client, app))

    made: FakeFleet | None = None
    # The coordinator's log is not what the command prints.
    stack.enter_context(capture_logs())
    try:
        made = asyncio.run_coroutine_threadsafe(build(), loop).result(30)
        yield made
    finally:
        if made is not None:
            asyncio.run_coroutine_threadsafe(made.close(), loop).result(10)
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(30)
        asyncio.run_coroutine_threadsafe(_cancel_rest(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

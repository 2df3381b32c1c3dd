"""
Many hosts in one process, as Consul sees them: each holds the agent's own watch, or polls as in 2014.

Run as ``python -m bench.watchers ADDRESS APP HOSTS watch|poll``. It prints a line of JSON when all hosts have read
for the first time, and at each round, when the last of them has read a new ``active/image``: the image, the times
(monotonic: one clock for all processes) and the number of requests sent so far. It ends with its standard input.
"""

import asyncio
import json
import random
import resource
import sys
import time
from contextlib import AsyncExitStack

import aiohttp

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.watch import watch
from agent.core.model.keys import Known, Outcome, Present
from agent.core.model.names import AppName, parse_app

POLL_EVERY_S = 1.0


class Watchers:
    """What its hosts have read."""

    def __init__(self, hosts: int) -> None:
        self.hosts = hosts
        self.requests = 0
        self._read: dict[str, list[float]] = {}

    def saw(self, image: str) -> None:
        """Note that one more host has read *image* just now."""
        times = self._read.setdefault(image, [])
        times.append(time.monotonic())
        if len(times) == self.hosts:
            print(json.dumps({"image": image, "times": self._read.pop(image), "requests": self.requests}), flush=True)

    def contact(self) -> None:
        """Count a request that was answered."""
        self.requests += 1


async def _watch(
    address: str, app: AppName, watchers: Watchers, group: asyncio.TaskGroup, stack: AsyncExitStack
) -> None:
    def on_reading(outcome: Outcome) -> None:
        if isinstance(outcome, Known) and isinstance(outcome.snapshot.active, Present):
            watchers.saw(outcome.snapshot.active.value)

    for number in range(watchers.hosts):
        client = await stack.enter_async_context(ConsulClient(address))
        group.create_task(watch(client, app, on_reading, on_contact=watchers.contact), name=f"host-{number}")


async def _poll(address: str, app: str, watchers: Watchers, group: asyncio.TaskGroup, stack: AsyncExitStack) -> None:
    http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))

    async def host() -> None:
        await asyncio.sleep(random.uniform(0, POLL_EVERY_S))
        value, last, next_at = "", "", time.monotonic()
        while True:
            for key in ("stage", "active"):
                async with http.get(f"{address}/v1/kv/{app}/{key}/image?raw") as reply:
                    value = await reply.text()
                watchers.contact()
            if value != last:
                last = value
                watchers.saw(value)
            next_at += POLL_EVERY_S
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))

    for number in range(watchers.hosts):
        group.create_task(host(), name=f"host-{number}")


async def _run(address: str, app: str, hosts: int, way: str) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    watchers = Watchers(hosts)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        begin = _watch if way == "watch" else _poll
        members = group.create_task(begin(address, parse_app(app), watchers, group, stack), name="begin")
        await members
        while await reader.readline():
            print(json.dumps({"image": "", "times": [], "requests": watchers.requests}), flush=True)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


if __name__ == "__main__":
    _most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (_most, _most))
    asyncio.run(_run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))

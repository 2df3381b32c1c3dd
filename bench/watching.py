"""
How fast, and at what cost, a whole fleet learns of one key's write: the agent's watch beside polling as in 2014.

The hosts are simulated (``bench/watchers.py``) and share two processes; their blocking queries and the server are
real. All of it shares the machine's cores, so that a real fleet of that size wakes faster.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from bench.figures import Figure, at_most, shown
from bench.proc import cpu_s, raise_limits
from cluster.servers.consul import ConsulServer, consul_server

APP = "bench"
ROUNDS = 25
POLLED_ROUNDS = 5
CALM_S = 2.2
"""The watch lets two readings pass at once, then one a second."""
REST_S = 66.0
"""Longer than a blocking query waits: each host asks once in it."""
POLLED_S = 15.0
PROCESSES = 2
SIZES: dict[int, float] = {200: 0.250, 1000: 1.0}
"""Hosts, and the most that the last of them may need, p99."""


async def measure() -> list[Figure]:
    """Measure each size, both ways."""
    raise_limits()
    figures: list[Figure] = []
    for hosts, most_s in SIZES.items():
        async with consul_server() as consul:
            figures += await _watched(consul, hosts, most_s)
        async with consul_server() as consul:
            figures += await _polled(consul, hosts)
    return figures


async def _watched(consul: ConsulServer, hosts: int, most_s: float) -> list[Figure]:
    async with _watcher_processes(consul, hosts, "watch") as processes:
        last, each = await _rounds(consul, processes, ROUNDS)
        asked, cpu = await _at_rest(consul, processes, REST_S)
    return [
        at_most(f"{hosts} watching hosts: key written to the last host, p99", _p99(last) * 1e3, "ms", most_s * 1e3),
        shown(f"{hosts} watching hosts: key written to the last host, median", median(last) * 1e3, "ms"),
        shown(f"{hosts} watching hosts: key written to a host, median", median(each) * 1e3, "ms"),
        shown(f"{hosts} watching hosts: requests", asked, "1/s"),
        shown(f"{hosts} watching hosts: server CPU of one core", cpu * 100, "%"),
    ]


async def _polled(consul: ConsulServer, hosts: int) -> list[Figure]:
    async with _watcher_processes(consul, hosts, "poll") as processes:
        last, each = await _rounds(consul, processes, POLLED_ROUNDS)
        asked, cpu = await _at_rest(consul, processes, POLLED_S)
    return [
        shown(f"{hosts} polling hosts: key written to the last host, median", median(last) * 1e3, "ms"),
        shown(f"{hosts} polling hosts: key written to a host, median", median(each) * 1e3, "ms"),
        shown(f"{hosts} polling hosts: requests", asked, "1/s"),
        shown(f"{hosts} polling hosts: server CPU of one core", cpu * 100, "%"),
    ]


@dataclass(frozen=True, slots=True)
class _WatcherProcess:
    process: asyncio.subprocess.Process

    async def said(self) -> Any:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return json.loads(await self.process.stdout.readline())

    async def requests(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        return int((await self.said())["requests"])


@asynccontextmanager
async def _watcher_processes(consul: ConsulServer, hosts: int, way: str) -> AsyncIterator[list[_WatcherProcess]]:
    for key in ("stage", "active"):
        await consul.put(f"{APP}/{key}/image", "bench:first")
    processes: list[_WatcherProcess] = []
    try:
        for _ in range(PROCESSES):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bench.watchers", consul.address, APP, str(hosts // PROCESSES), way),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**20,
            )
            processes.append(_WatcherProcess(process))
        await asyncio.gather(*(watchers.said() for watchers in processes))
        yield processes
    finally:
        for watchers in processes:
            watchers.process.kill()
            await watchers.process.wait()


async def _rounds(
    consul: ConsulServer, processes: list[_WatcherProcess], count: int
) -> tuple[list[float], list[float]]:
    """Return the seconds from each write to the last host's reading, and to every host's."""
    last: list[float] = []
    each: list[float] = []
    for number in range(count):
        await asyncio.sleep(CALM_S)
        began = time.monotonic()
        await consul.put(f"{APP}/active/image", f"bench:{number}")
        times = [
            at - began
            for said in await asyncio.gather(*(watchers.said() for watchers in processes))
            for at in said["times"]
        ]
        last.append(max(times))
        each += times
    return last, each


async def _at_rest(consul: ConsulServer, processes: list[_WatcherProcess], seconds: float) -> tuple[float, float]:
    """Return requests a second, and the cores that the server uses."""
    await asyncio.sleep(CALM_S)
    asked = [await watchers.requests() for watchers in processes]
    cpu = cpu_s(consul.process.pid)
    await asyncio.sleep(seconds)
    used = cpu_s(consul.process.pid) - cpu
    now = [await watchers.requests() for watchers in processes]
    return (sum(now) - sum(asked)) / seconds, used / seconds


def _p99(samples: list[float]) -> float:
    return quantiles(samples, n=100, method="inclusive")[98]

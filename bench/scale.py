"""
A fleet of 1,000 hosts as the coordinator and the command line see it. The hosts exist in Consul only.

The barrier: all of them report that they are staged, 64 at a time; the coordinator's own watch and ``advance`` are
asked whether it may go on, from the last report's answer on. What is read is counted on the wire, from the first
report to the consistent reading before the commit.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

from agent.adapters.consul.fleet import read_fleet, write_change
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import agent_service, register_service
from agent.core.model.names import AppName, Digest, ImageReference, NodeName, Pin, parse_app
from agent.core.model.names import ReleaseId as Id
from agent.core.model.record import Phase, RecordedRelease
from agent.core.rollout.advance import advance
from agent.core.rollout.change import Change, writes_of
from agent.core.rollout.commands import CommandAuthor, deploy
from agent.core.rollout.decision import Request
from agent.core.rollout.fleet import Resolution
from agent.core.rollout.strategy import Strategy
from agent.runtime.fleet.watch import FleetWatch
from bench.counting_proxy import CountingProxy
from bench.figures import Figure, at_most, shown
from bench.fleet_in_consul import Population, staged
from cluster.servers.consul import ConsulServer, consul_server
from cluster.servers.fleet import TIDEGATE, said_by

HOSTS = 1000
ROUNDS = 3
CALLS = 10
BARRIER_S, BARRIER_MB, STATUS_S, HELP_MS = 2.5, 3.0, 1.0, 300.0
APP: AppName = parse_app("bench")
COORDINATOR = NodeName("coordinator-1")
DIGEST = Digest("sha256:" + "b" * 64)
SERVED = RecordedRelease(
    image=ImageReference(f"registry.example/shop:a@sha256:{'a' * 64}"), release=Id("a" * 12), pin=Pin("a" * 12)
)


async def measure() -> list[Figure]:
    """Measure the barrier, then commands on the same fleet."""
    async with _fleet() as (people, client):
        target = await _begin(client)
        seen, read = [], []
        for _ in range(ROUNDS):
            seconds, megabytes = await _barrier(people, target)
            seen.append(seconds)
            read.append(megabytes)
        status = [await _timed(people.consul, "status", "--app", APP) for _ in range(CALLS)]
        usage = [await _timed(people.consul, "--help") for _ in range(CALLS)]
    return [
        at_most(
            f"{HOSTS} hosts staged: last report to the barrier passed, most of {ROUNDS}", max(seen), "s", BARRIER_S
        ),
        at_most(f"{HOSTS} hosts staged: read by the coordinator, most of {ROUNDS}", max(read), "MB", BARRIER_MB),
        at_most(f"tidegate status over {HOSTS} hosts, median of {CALLS}", median(status), "s", STATUS_S),
        at_most(f"tidegate --help, median of {CALLS}", median(usage) * 1e3, "ms", HELP_MS),
        shown("an empty Python, for comparison", await _python() * 1e3, "ms"),
    ]


@asynccontextmanager
async def _fleet() -> AsyncIterator[tuple[Population, ConsulClient]]:
    async with AsyncExitStack() as stack:
        consul = await stack.enter_async_context(consul_server())
        client = await stack.enter_async_context(ConsulClient(consul.address))
        people = Population(consul, APP, [NodeName(f"web-{number}") for number in range(HOSTS)])
        await consul.put(f"{APP}/active/image", SERVED.image)
        await people.register()
        await people.report(staged(APP, node, SERVED, None) for node in people.nodes)
        own = agent_service(COORDINATOR, consul.port, f"{consul.address}/v1/status/leader", _meta())
        await register_service(client, own)
        yield people, client


def _meta() -> dict[str, str]:
    return {"node": COORDINATOR, "instance": "bench", "coordinator": "true"}


async def _begin(client: ConsulClient) -> RecordedRelease:
    """Deploy, up to the phase in which every host has to stage; return what it stages."""
    reading = await read_fleet(client, APP)
    request = Request(image=ImageReference("registry.example/shop:b"))
    by = CommandAuthor("bench", "", time.time())
    await _write(client, deploy(reading.keys, reading.reports.values(), request, Strategy(), by))
    watch = FleetWatch(client, APP, COORDINATOR, lambda: None)
    while True:
        reading = await watch.reading_anew()
        assert reading.record is not None
        if reading.record.phase is Phase.STAGING:
            assert reading.record.target is not None
            return reading.record.target
        change = advance(reading.record, watch.fleet(reading, Resolution(DIGEST)), time.time()).change
        assert change is not None, "nothing can be staged"
        await _write(client, change)


async def _write(client: ConsulClient, change: Change) -> None:
    indexes = (await read_fleet(client, APP)).indexes
    await write_change(client, APP, writes_of(APP, change, indexes, by="bench", now=time.time()))


async def _barrier(people: Population, target: RecordedRelease) -> tuple[float, float]:
    """Return the seconds from the last report to the barrier, and the megabytes read."""
    news = asyncio.Event()
    proxy = CountingProxy(people.consul.port)
    async with proxy.listening() as address, ConsulClient(address) as client:
        watch = FleetWatch(client, APP, COORDINATOR, news.set)
        await people.report(staged(APP, node, SERVED, None) for node in people.nodes)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            while not await _knows_all(watch):
                await news.wait()
                news.clear()
            await asyncio.sleep(3)  # nothing happens, and the watch may read twice at once again
            before = proxy.bytes_back
            passed = group.create_task(_passes(watch, news))
            await people.report(staged(APP, node, SERVED, target) for node in people.nodes)
            last = time.monotonic()
            seen = await passed
            await watch.reading_anew()
            task.cancel()
    return max(0.0, seen - last), (proxy.bytes_back - before) / 1e6


async def _knows_all(watch: FleetWatch) -> bool:
    reading = await watch.reading()
    return reading is not None and len(reading.reports) == HOSTS


async def _passes(watch: FleetWatch, news: asyncio.Event) -> float:
    """Wait until ``advance`` would go on; return when that was."""
    while True:
        reading = await watch.reading()
        if reading is not None and reading.record is not None:
            change = advance(reading.record, watch.fleet(reading, None), time.time()).change
            if change is not None and change.record.phase is Phase.READY:
                return time.monotonic()
        await news.wait()
        news.clear()


async def _timed(consul: ConsulServer, *arguments: str) -> float:
    env = {**os.environ, "CONSUL_HTTP_ADDR": consul.address, "TIDEGATE_CONFIG": "/nonexistent"}
    began = time.monotonic()
    said = await said_by([TIDEGATE, *arguments], env)
    took = time.monotonic() - began
    assert said.code == 0, said
    return took


async def _python() -> float:
    began = time.monotonic()
    await said_by([sys.executable, "-c", ""], os.environ)
    return time.monotonic() - began

"""A coordinator that falls silent: Consul ends its session by itself, another takes over, and its last write fails."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import pytest_asyncio

from agent.adapters.consul.fleet import read_fleet
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import agent_service, register_service
from agent.core.model.names import ImageReference, parse_app, parse_node
from agent.core.rollout.advance import advance
from agent.core.rollout.change import signed
from agent.core.rollout.commands import deploy
from agent.core.rollout.decision import Request
from agent.core.rollout.fleet import Fleet
from agent.core.rollout.strategy import Strategy
from agent.runtime.fleet.leader import Leader, LeaseTimings
from cluster.servers.consul import ConsulServer
from cluster.servers.process import eventually
from tests.adapters.consul.fleet_rig import BY, FakeFleet
from tests.adapters.consul.real import RealConsul

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
TIMINGS = LeaseTimings(ttl_s=10)
"""As in service, with Consul's shortest TTL; a session lives up to twice as long."""


@pytest_asyncio.fixture(loop_scope="session", name="fake_fleet")
async def _fake_fleet(consul: ConsulServer) -> AsyncIterator[FakeFleet]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ConsulClient(consul.address))
        fake_fleet = FakeFleet(RealConsul(consul), client, parse_app(f"lab-{uuid.uuid4().hex[:8]}"))
        node = parse_node(f"{fake_fleet.app}-core")
        own = agent_service(node, consul.port, f"{consul.address}/v1/status/leader", {"node": node})
        await register_service(client, own)
        yield fake_fleet


def candidate(fake_fleet: FakeFleet, node: str, timings: LeaseTimings = TIMINGS) -> Leader:
    return Leader(
        fake_fleet.client, fake_fleet.app, parse_node(node), f"{node}-boot", on_change=lambda: None, timings=timings
    )


async def leads(leader: Leader) -> bool:
    return leader.lease is not None


async def test_who_falls_silent_is_followed_within_twice_the_ttl(fake_fleet: FakeFleet) -> None:
    """As after SIGKILL, or SIGSTOP: no renewal and no goodbye. What it wakes up with is too late."""
    first, second = candidate(fake_fleet, "core-1", replace(TIMINGS, renew_s=3600.0)), candidate(fake_fleet, "core-2")
    silent = asyncio.create_task(first.run())
    assert await eventually(lambda: leads(first), deadline_s=5)
    began, lease = time.monotonic(), first.lease
    assert lease is not None
    successor = asyncio.create_task(second.run())
    try:
        reading = await read_fleet(fake_fleet.client, fake_fleet.app)
        request = Request(image=ImageReference("registry.example/shop:b"))
        await fake_fleet.write(deploy(reading.keys, (), request, Strategy(), BY), reading)
        reading = await read_fleet(fake_fleet.client, fake_fleet.app)
        assert await eventually(lambda: leads(second), deadline_s=30)
        assert 10.0 < time.monotonic() - began < 2 * TIMINGS.ttl_s + TIMINGS.jitter_s + 3
        assert first.lease is None, "it has fenced itself long before"
        assert second.lease is not None
        assert second.lease.epoch == lease.epoch + 1
        assert reading.record is not None
        change = advance(reading.record, Fleet(), time.time()).change
        assert change is not None
        late = await fake_fleet.write(signed(change, lease.epoch), reading, lease.fence)
        assert type(late).__name__ == "TxnConflict"
        done = await fake_fleet.write(signed(change, second.lease.epoch), reading, second.lease.fence)
        assert type(done).__name__ == "TxnDone"
    finally:
        for task in (silent, successor):
            task.cancel()
        await asyncio.wait([silent, successor])

"""Who holds an app's lock: one at a time, with the next epoch each time, and never longer than its session may live."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import pytest_asyncio
from aiohttp import web

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.sessions import destroy_session
from agent.adapters.consul.transport import TokenSource
from agent.core.model import keys
from agent.core.model.keys import KeyValue
from agent.core.model.names import parse_app, parse_node
from agent.core.rollout.lock import holder_of, read_lock
from agent.pacing.clock import Clock, SystemClock
from agent.runtime.fleet.leader import Leader, LeaseTimings
from cluster.servers.process import eventually
from tests.adapters.fakes.consul import FakeConsul, running
from tests.adapters.fakes.consul_faults import Fault
from tests.clocks import ManualClock

APP = parse_app("shop")
LOCK = keys.coordinator(APP)
pytestmark = pytest.mark.slow
QUICK = LeaseTimings(renew_s=0.05, fence_s=10.0, wait_s=1.0, jitter_s=0.02, retry_s=0.02, release_s=0.5)


class FlakyConsul(FakeConsul):
    """Loses the answer to the next transactions, which it did all the same."""

    lost = 0

    async def _answer(self, request: web.Request) -> web.Response:
        answer = await super()._answer(request)
        if self.fault is not Fault.ERROR:
            loses = request.path == "/v1/txn" and self.lost > 0
            self.lost -= loses
            self.fault = Fault.DROP if loses else None
        return answer


@pytest_asyncio.fixture(name="consul")
async def _consul() -> AsyncIterator[FlakyConsul]:
    fake = FlakyConsul()
    await fake.start()
    yield fake
    await fake.thaw()
    await fake.kill()


@asynccontextmanager
async def candidate(
    consul: FakeConsul,
    name: str = "web-1",
    *,
    timings: LeaseTimings = QUICK,
    token: str = "",
    clock: Clock | None = None,
) -> AsyncIterator[Leader]:
    """Let one stand until the block ends, as a process that is told to end."""
    async with ConsulClient(consul.url, token=TokenSource(token)) as client:
        leader = Leader(
            client,
            APP,
            parse_node(name),
            f"{name}-boot",
            on_change=lambda: None,
            timings=timings,
            clock=clock or SystemClock(),
        )
        task = asyncio.create_task(leader.run(), name=f"leader {name}")
        try:
            yield leader
        finally:
            task.cancel()
            await asyncio.wait([task])


async def holds(condition: Callable[[], bool], within_s: float = 3.0) -> bool:
    """Wait for *condition*."""

    async def asked() -> bool:
        return condition()

    return await eventually(asked, deadline_s=within_s)


async def elected(leader: Leader) -> bool:
    """Wait until it leads."""
    return await holds(lambda: leader.lease is not None)


async def lock_of(consul: FakeConsul) -> KeyValue | None:
    async with ConsulClient(consul.url) as client:
        return await client.get(LOCK)


async def test_the_only_candidate_is_elected_at_once_and_says_who_it_is(consul: FlakyConsul) -> None:
    """Nobody waits for a lock that is free; its value is for people, and holds the epoch."""
    async with candidate(consul, timings=replace(QUICK, jitter_s=30.0)) as leader:
        assert await elected(leader)
        entry = await lock_of(consul)
        assert entry is not None
        assert leader.lease is not None
        assert (entry.session, leader.lease.epoch) == (leader.lease.session, 1)
        holder = holder_of(entry)
        assert holder is not None
        assert (holder.node, holder.instance, holder.epoch) == ("web-1", "web-1-boot", 1)


async def test_of_two_candidates_one_leads_until_it_ends(consul: FlakyConsul) -> None:
    """Who ends on purpose gives the lock back: the next one leads at once, with the next epoch, in the same key."""
    async with candidate(consul, "web-2") as second:
        async with candidate(consul, "web-1") as first:
            assert await holds(lambda: (first.lease or second.lease) is not None)
            await asyncio.sleep(0.2)
            assert [first.lease, second.lease].count(None) == 1
        assert await holds(lambda: second.lease is not None, within_s=1.0)
        entry = await lock_of(consul)
        assert entry is not None
        assert second.lease is not None
        assert read_lock(entry).epoch == second.lease.epoch
    entry = await lock_of(consul)
    assert entry is not None, "the key outlives its holders: the epoch is in it"
    assert holder_of(entry) is None


async def test_each_turn_has_the_next_epoch(consul: FlakyConsul) -> None:
    """Across restarts of the same agent, too."""
    for epoch in (1, 2, 3):
        async with candidate(consul) as leader:
            assert await elected(leader)
            assert leader.lease is not None
            assert leader.lease.epoch == epoch


async def test_a_session_that_is_gone_ends_the_lease_and_the_holder_stands_again(consul: FlakyConsul) -> None:
    """Destroyed by an operator, or expired: the next renewal is told."""
    async with candidate(consul) as leader:
        assert await elected(leader)
        before = leader.lease
        assert before is not None
        async with ConsulClient(consul.url) as client:
            await destroy_session(client, before.session)
        assert await holds(lambda: leader.lease is not None and leader.lease != before)
        assert leader.lease is not None
        assert leader.lease.epoch == before.epoch + 1


async def test_a_holder_that_cannot_renew_stops_before_its_session_can_have_ended(consul: FlakyConsul) -> None:
    """Counted from the start of the last renewal that succeeded, also while one hangs."""
    clock = ManualClock()
    async with candidate(consul, clock=clock) as leader:
        assert await elected(leader)
        await consul.freeze()
        clock.at += 9.9
        assert leader.lease is not None
        clock.at += 0.2
        assert leader.lease is None


async def test_a_renewal_that_failed_is_tried_again_soon(consul: FlakyConsul) -> None:
    """Consul without a leader for a moment deposes nobody: there are many tries before the fence."""
    async with candidate(consul, timings=replace(QUICK, renew_s=0.5), clock=ManualClock()) as leader:
        assert await elected(leader)
        before = leader.lease
        consul.fault = Fault.ERROR
        assert await holds(lambda: "cannot be renewed" in leader.problem)
        asked = len(consul.requests)
        await asyncio.sleep(0.5)
        assert len(consul.requests) - asked >= 5
        consul.fault = None
        assert await holds(lambda: not leader.problem)
        assert leader.lease == before


async def test_who_resigns_makes_room_for_another(consul: FlakyConsul) -> None:
    """A leader that cannot act must not keep the lock from one that can."""
    async with candidate(consul, "web-1", timings=replace(QUICK, shy_s=2.0)) as first:
        assert await elected(first)
        async with candidate(consul, "web-2") as second:
            first.resign("no right to read services")
            assert await elected(second)
            assert first.lease is None
            assert first.problem == "resigned: no right to read services"
        assert await elected(first)
        await asyncio.sleep(0.2)
        assert first.lease is not None, "what it resigned from is over"


async def test_an_election_whose_answer_was_lost_is_held_or_given_back(consul: FlakyConsul) -> None:
    """The lock's key says whether it was won; nobody is left out of it by a session that nobody renews."""
    consul.lost = 1
    async with candidate(consul) as leader:
        assert await elected(leader)
        entry = await lock_of(consul)
        assert entry is not None
        assert leader.lease is not None
        assert (entry.session, read_lock(entry).epoch) == (leader.lease.session, leader.lease.epoch)


async def test_a_lock_that_holds_junk_is_epoch_zero(consul: FlakyConsul) -> None:
    """Somebody wrote over it: nothing that counts hangs on the epoch alone."""
    async with ConsulClient(consul.url) as client:
        await client.put(LOCK, b"junk \xff")
    async with candidate(consul) as leader:
        assert await elected(leader)
        assert leader.lease is not None
        assert leader.lease.epoch == 1


async def test_who_may_not_take_the_lock_says_so_and_goes_on_trying() -> None:
    """The right may come later; meanwhile an operator is told what is missing."""
    async with running(acl=True) as consul:
        token = await consul.grant({LOCK: "read"})
        async with candidate(consul, token=token) as leader:
            assert await holds(lambda: "may not take the lock" in leader.problem)
            assert leader.lease is None
            assert await holds(lambda: _sessions_asked_for(consul) >= 3)
        assert consul.catalog.sessions == set(), "each try ends the session it made"


async def test_a_lost_election_is_not_tried_again_and_again(consul: FlakyConsul) -> None:
    """A lock whose key always changes in between costs a try now and then, not all that Consul has."""
    async with ConsulClient(consul.url) as client:
        await client.put(LOCK, b"{}")

        async def meddle() -> None:
            for number in range(10_000):
                await client.put(LOCK, b'{"epoch": %d}' % number)

        meddling = asyncio.create_task(meddle())
        try:
            async with candidate(consul, timings=replace(QUICK, jitter_s=0.5, retry_s=0.5)):
                await asyncio.sleep(0.6)
        finally:
            meddling.cancel()
            await asyncio.wait([meddling])
    assert 1 <= _sessions_asked_for(consul) <= 4


def _sessions_asked_for(consul: FakeConsul) -> int:
    return sum(path == "/v1/session/create" for _, path, _ in consul.requests)

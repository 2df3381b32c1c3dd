"""The pace of the watch on a clock of the test's own: token bucket, back-off, index rules."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.watch import Pace, TokenBucket, next_index
from agent.core.model.keys import Known, Unknown
from agent.core.model.names import AppName
from tests.adapters.consul.suite import new_app, watching
from tests.adapters.fakes.consul import FakeConsul
from tests.adapters.fakes.consul import running as fake_running
from tests.adapters.fakes.consul_faults import Fault
from tests.clocks import SleepingClock


@pytest.fixture
def app() -> AppName:
    """An app of the test's own."""
    return new_app()


@pytest.fixture
async def fake() -> AsyncIterator[FakeConsul]:
    """A fake to switch faults on."""
    async with fake_running() as made:
        yield made


class Steady(random.Random):
    """Chance without surprise: always the middle."""

    def uniform(self, a: float, b: float) -> float:
        """Return the middle."""
        return (a + b) / 2


class TestPace:
    async def test_two_reads_at_once_then_one_a_second(self) -> None:
        """A wake after a quiet minute costs nothing; a storm of writes costs one read a second."""
        clock = SleepingClock()
        bucket = TokenBucket(Pace(clock=clock))
        for _ in range(5):
            await bucket.take()
        assert clock.slept == pytest.approx([1.0, 1.0, 1.0])
        clock.at += 60
        for _ in range(3):
            await bucket.take()
        assert clock.slept[3:] == pytest.approx([1.0])

    async def test_failures_back_off_and_contact_resets(self, fake: FakeConsul, app: AppName) -> None:
        """From 0.25 s, doubling to 15 s; after one answer from the start again."""
        clock = SleepingClock()
        pace = Pace(wait_s=0.05, rng=Steady(), clock=clock)
        fake.fault = Fault.ERROR
        async with ConsulClient(fake.url) as client, watching(client, app, pace) as told, asyncio.timeout(10):
            while len(fake.requests) < 10:  # noqa: ASYNC110 - the fake sets no event
                await asyncio.sleep(0.01)
            # The third pause is the bucket's: three reads in less than a second.
            assert clock.slept[:9] == pytest.approx([0.25, 0.5, 0.25, 1, 2, 4, 8, 15, 15])
            fake.fault = None
            await told.until(Known)
            clock.slept.clear()
            fake.fault = Fault.ERROR
            await told.until(Unknown)
            while 0.5 not in clock.slept:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
            assert clock.slept.index(0.25) < clock.slept.index(0.5)
            assert 15 not in clock.slept[: clock.slept.index(0.5)]

    async def test_back_off_is_jittered_by_half(self, fake: FakeConsul, app: AppName) -> None:
        """A thousand nodes do not come back at the same moment."""
        clock = SleepingClock()
        fake.fault = Fault.ERROR
        async with (
            ConsulClient(fake.url) as client,
            watching(client, app, Pace(clock=clock)) as told,
        ):
            await told.until(Unknown)
            async with asyncio.timeout(5):
                while not clock.slept:  # noqa: ASYNC110 - the fake sets no event
                    await asyncio.sleep(0.01)
        assert 0.125 <= clock.slept[0] <= 0.375

    @pytest.mark.parametrize(
        ("asked", "answered", "then"), [(0, 10, 10), (10, 10, 10), (10, 12, 12), (10, 9, 0), (0, 0, 1), (1, 0, 0)]
    )
    def test_index_rules(self, asked: int, answered: int, then: int) -> None:
        """Forward is followed, backward starts over, and 0 is never asked with."""
        assert next_index(asked, answered) == then

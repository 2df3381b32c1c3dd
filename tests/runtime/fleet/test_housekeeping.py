"""What a coordinator clears away: nothing that somebody may still need, and nothing twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from agent.adapters.consul.fleet import Fence
from agent.adapters.consul.kv import ConsulClient
from agent.core.model import keys
from agent.core.model.names import parse_node
from agent.core.model.record import Phase
from agent.runtime.fleet.housekeeping import EVERY_S, GONE_S, Housekeeping
from agent.runtime.fleet.watch import FleetWatch
from cluster.servers.process import eventually
from tests.adapters.consul.fleet_rig import FakeFleet, record, report
from tests.adapters.consul.suite import hurried, new_app
from tests.adapters.fakes.consul import FakeConsul
from tests.adapters.fakes.consul import running as fake_running
from tests.clocks import HurriedClock

pytestmark = pytest.mark.slow


@dataclass(slots=True)
class House:
    """A fleet under watch, and time that passes when it is told to."""

    fake_fleet: FakeFleet
    housekeeping: Housekeeping
    fence: Fence
    clock: HurriedClock = field(default_factory=HurriedClock)

    async def collect_garbage_after(self, seconds: float, fence: Fence | None = None) -> None:
        """Let time pass, look at the fleet, and tidy."""
        self.clock.at += seconds
        reading = await self.housekeeping.watch.reading()
        assert reading is not None
        self.housekeeping.watch.fleet(reading, None)
        await self.housekeeping.collect_garbage(reading, fence or self.fence, self.clock.now())

    async def left(self, prefix: str) -> list[str]:
        listing = await self.fake_fleet.client.list(prefix)
        return [entry.key.removeprefix(prefix) for entry in listing.entries]

    async def has_read(self, key: str) -> None:
        """Wait until the watch has everything up to *key*."""
        entry = await self.fake_fleet.client.get(key)
        assert entry is not None

        async def known() -> bool:
            reading = await self.housekeeping.watch.reading()
            return reading is not None and reading.keys.index >= entry.modify_index

        assert await eventually(known, deadline_s=5)

    @property
    def writes(self) -> int:
        assert isinstance(self.fake_fleet.server, FakeConsul)
        return sum(path == "/v1/txn" for _, path, _ in self.fake_fleet.server.requests)


@pytest.fixture(name="house")
async def _house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        consul = await stack.enter_async_context(fake_running())
        client = await stack.enter_async_context(ConsulClient(consul.url))
        fake_fleet = FakeFleet(consul, client, new_app())
        await fake_fleet.agent_lives("core-1", app="", coordinator="true")
        await fake_fleet.host("web-1")
        await client.put(keys.node_report(fake_fleet.app, parse_node("web-2")), report(fake_fleet.app, "web-2"))
        fence = await fake_fleet.locked()
        house = House(fake_fleet, Housekeeping(client, fake_fleet.app, None), fence)  # type: ignore[arg-type]
        house.housekeeping.watch = FleetWatch(
            client, fake_fleet.app, parse_node("core-1"), lambda: None, pace=hurried(clock=house.clock)
        )
        task = asyncio.create_task(house.housekeeping.watch.run())

        async def known() -> bool:
            reading = await house.housekeeping.watch.reading()
            return reading is not None and len(reading.reports) == 2

        assert await eventually(known, deadline_s=5)
        yield house
        task.cancel()
        await asyncio.wait([task])


async def test_the_report_of_a_host_gone_for_an_hour_is_removed(house: House) -> None:
    """Counted from when this coordinator first missed it; hosts that live keep theirs."""
    reports = keys.node_reports(house.fake_fleet.app)
    await house.collect_garbage_after(0)
    await house.collect_garbage_after(GONE_S - 1)
    assert await house.left(reports) == ["web-1", "web-2"]
    await house.collect_garbage_after(EVERY_S)
    assert await house.left(reports) == ["web-1"]


async def test_nothing_is_cleared_away_while_a_rollout_is_under_way(house: House) -> None:
    """A host that left on purpose says so in its report: without it the rollout would count it as lost."""
    key = keys.rollout(house.fake_fleet.app)
    await house.fake_fleet.client.put(key, record(Phase.BAKING))
    await house.has_read(key)
    await house.collect_garbage_after(0)
    await house.collect_garbage_after(GONE_S + 2)
    assert await house.left(keys.node_reports(house.fake_fleet.app)) == ["web-1", "web-2"]


async def test_the_report_of_a_host_that_is_just_back_stays(house: House) -> None:
    """It wrote another one in the moment before: the one that was read is not there any more."""
    app = house.fake_fleet.app
    await house.collect_garbage_after(0)
    entry = next(iter(house.housekeeping.watch.reports_of_gone(0)))
    await house.fake_fleet.client.put(entry.key, report(app, "web-2", summary="back"))
    house.housekeeping.watch._take_reports(await house.fake_fleet.client.list("nothing"))
    held = house.housekeeping.watch._reports
    assert held is not None
    house.housekeeping.watch._reports = type(held)((entry,), held.index)
    house.clock.at += GONE_S
    await house.housekeeping._remove_reports(house.fence)
    assert "web-2" in await house.left(keys.node_reports(app))


async def test_old_documents_go_when_a_rollout_has_ended(house: House) -> None:
    """Lists of members, and audit entries of rollouts long past; the last hundred rollouts keep theirs."""
    app, client = house.fake_fleet.app, house.fake_fleet.client
    for generation in (29, 30, 31, 131):
        await client.put(keys.members(app, generation), b'{"v": 1, "members": ["web-1"]}')
        await client.put(keys.history(app, generation, 0), b"{}")
    await client.put(keys.rollout(app), record(Phase.STAGING, 131))
    await house.has_read(keys.rollout(app))
    await house.collect_garbage_after(0)
    assert len(await house.left(keys.rollouts(app))) == 4
    await client.put(keys.rollout(app), record(Phase.SUCCESSFUL, 131))
    await house.has_read(keys.rollout(app))
    await house.collect_garbage_after(EVERY_S)
    assert await house.left(keys.rollouts(app)) == []
    assert await house.left(keys.histories(app)) == ["131/0"]


async def test_a_fleet_at_rest_is_written_nothing(house: House) -> None:
    """Neither in the minute after nor ever."""
    app, client = house.fake_fleet.app, house.fake_fleet.client
    await client.put(keys.rollout(app), record(Phase.SUCCESSFUL, 131))
    await house.has_read(keys.rollout(app))
    await house.collect_garbage_after(0)
    before = house.writes
    for _ in range(5):
        await house.collect_garbage_after(EVERY_S)
    assert house.writes == before


async def test_who_is_deposed_removes_nothing(house: House) -> None:
    """A removal is fenced as any write is; and it ends nothing that it failed."""
    await house.collect_garbage_after(0)
    await house.collect_garbage_after(GONE_S + EVERY_S, Fence("another"))
    assert await house.left(keys.node_reports(house.fake_fleet.app)) == ["web-1", "web-2"]
    await house.collect_garbage_after(EVERY_S)
    assert await house.left(keys.node_reports(house.fake_fleet.app)) == ["web-1"]

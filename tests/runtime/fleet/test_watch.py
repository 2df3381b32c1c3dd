"""What a coordinator knows of its fleet: put together from three watches, and never older than what it wrote."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from agent.adapters.consul.fleet import FleetReading
from agent.adapters.consul.kv import ConsulClient
from agent.core.model import keys
from agent.core.model.keys import Known, Present
from agent.core.model.names import NodeName, parse_node
from agent.core.model.record import Phase
from agent.core.rollout.decision import Decision
from agent.runtime.fleet.watch import FleetWatch
from cluster.servers.process import eventually
from tests.adapters.consul.fleet_rig import FakeFleet, record, report
from tests.adapters.consul.suite import hurried, new_app
from tests.adapters.fakes.consul import FakeConsul
from tests.adapters.fakes.consul import running as fake_running
from tests.adapters.fakes.consul_faults import Fault
from tests.clocks import HurriedClock

pytestmark = pytest.mark.slow
CORE = parse_node("core-1")


@dataclass(slots=True)
class Seen:
    """A watch under way, and what it stands before."""

    fake_fleet: FakeFleet
    consul: FakeConsul
    watch: FleetWatch
    clock: HurriedClock
    calls: list[float] = field(default_factory=list)

    async def reading(self) -> FleetReading:
        """Wait until the fleet is known."""
        got: FleetReading | None = None

        async def known() -> bool:
            nonlocal got
            got = await self.watch.reading()
            return got is not None

        assert await eventually(known, deadline_s=5), self.watch.problem
        assert got is not None
        return got

    async def problem(self, words: str) -> None:
        """Wait until it says why the fleet is not known."""

        async def says() -> bool:
            return words in self.watch.problem and await self.watch.reading() is None

        assert await eventually(says, deadline_s=5), self.watch.problem

    async def put(self, phase: Phase, *, seq: int = 4, generation: int = 3) -> None:
        """Write a record, as if by somebody else."""
        text = json.dumps(json.loads(record(phase, generation)) | {"seq": seq}).encode()
        await self.fake_fleet.client.put(keys.rollout(self.fake_fleet.app), text)

    async def known_record(self, seq: int) -> Decision:
        """Wait until the record with this *seq* is known."""
        got: Decision | None = None

        async def known() -> bool:
            nonlocal got
            reading = await self.watch.reading()
            got = reading.record if reading else None
            return got is not None and got.seq == seq

        assert await eventually(known, deadline_s=5), got
        assert got is not None
        return got


@asynccontextmanager
async def watching(*, registers: bool = True, fault: Fault | None = None) -> AsyncIterator[Seen]:
    async with fake_running() as consul, ConsulClient(consul.url) as client:
        fake_fleet = FakeFleet(consul, client, new_app())
        if registers:
            await fake_fleet.agent_lives(CORE, app="", coordinator="true")
        await client.put(keys.active_image(fake_fleet.app), b"shop:a")
        consul.fault = fault
        clock = HurriedClock()
        watch = FleetWatch(client, fake_fleet.app, CORE, lambda: None, pace=hurried(clock=clock))
        task = asyncio.create_task(watch.run())
        try:
            yield Seen(fake_fleet, consul, watch, clock)
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture(name="seen")
async def _seen() -> AsyncIterator[Seen]:
    async with watching() as seen:
        yield seen


async def test_a_fleet_is_known_once_all_of_it_was_read(seen: Seen) -> None:
    """Keys, reports and catalog; before that there is a reason and no fleet."""
    assert seen.watch.problem == "the fleet was not read yet"
    assert await seen.watch.reading() is None
    await seen.fake_fleet.host("web-1")
    reading = await seen.reading()
    assert isinstance(reading.keys.active, Present)


async def test_a_report_is_seen_when_it_changes(seen: Seen) -> None:
    """Without being asked for."""
    await seen.fake_fleet.host("web-1")

    async def reports(summary: str) -> bool:
        reading = await seen.watch.reading()
        shown = reading.reports.get(NodeName("web-1")) if reading else None
        return shown is not None and shown.summary == summary

    assert await eventually(lambda: reports("nothing runs"), deadline_s=5)
    key = keys.node_report(seen.fake_fleet.app, parse_node("web-1"))
    await seen.fake_fleet.client.put(key, report(seen.fake_fleet.app, "web-1", summary="something runs"))
    assert await eventually(lambda: reports("something runs"), deadline_s=5)


@pytest.mark.parametrize("fault", [Fault.FILTERED, Fault.FILTERED_HEALTH])
async def test_lists_that_leave_something_out_are_no_fleet(fault: Fault) -> None:
    """Consul says that the token may not see all: a host that is not shown would count as lost."""
    async with watching(fault=fault) as seen:
        await seen.problem("may not read all")
        seen.consul.fault = None
        await seen.reading()


async def test_a_catalog_without_this_agent_is_no_fleet() -> None:
    """Without the right to read it, it looks empty: whoever coordinates is in it."""
    async with watching(registers=False) as seen:
        await seen.problem("the catalog does not show this agent")
        await seen.fake_fleet.agent_lives(CORE, app="", coordinator="true", status="critical")
        await seen.reading()  # its own health says nothing of what it may read


async def test_a_catalog_that_cannot_be_read_is_no_fleet_any_more(seen: Seen) -> None:
    """What was known before is too old to decide by."""
    await seen.reading()
    seen.consul.fault = Fault.ERROR
    await seen.problem("500")
    seen.consul.fault = None
    await seen.reading()


async def test_what_was_written_counts_until_something_newer_is_read(seen: Seen) -> None:
    """An answer of before the write may come after it; it does not undo what is known."""
    await seen.put(Phase.PENDING)
    await seen.known_record(4)
    late = await seen.reading()
    await seen.put(Phase.PENDING, seq=5)
    written = await seen.fake_fleet.client.get(keys.rollout(seen.fake_fleet.app))
    assert written is not None
    rollout = Present(written.value.decode(), written.modify_index)
    seen.watch.apply(replace(late.keys, rollout=rollout, index=written.modify_index))
    seen.watch._take_keys(Known(late.keys))
    reading = await seen.reading()
    assert reading.record is not None
    assert reading.record.seq == 5


async def test_what_was_written_does_not_hide_what_came_after_it(seen: Seen) -> None:
    """The watch may be faster than the answer to a write: an abort that it brought must not be lost."""
    await seen.put(Phase.PENDING)
    await seen.known_record(4)
    before = await seen.reading()
    ours = replace(before.keys, index=before.keys.index + 1)
    await seen.put(Phase.PENDING, seq=5)  # ours, which the watch brings first
    await seen.put(Phase.PENDING, seq=6)  # and an operator's
    await seen.known_record(6)
    seen.watch.apply(ours)
    reading = await seen.reading()
    assert reading.record is not None
    assert reading.record.seq == 6


async def test_a_restored_snapshot_is_what_is_known_then(seen: Seen) -> None:
    """Consul's indexes go back; a coordinator that went on with what it knew would never act again."""
    await seen.put(Phase.PENDING, seq=1)
    await seen.known_record(1)
    saved = await seen.consul.snapshot()
    for seq in range(2, 9):
        await seen.put(Phase.PENDING, seq=seq)
    await seen.known_record(8)
    seen.watch.apply((await seen.reading()).keys)  # its own, as a leader's last one is
    await seen.consul.restore(saved)
    await seen.known_record(1)
    await seen.put(Phase.PENDING, seq=2)
    await seen.known_record(2)


async def test_members_are_read_again_when_a_write_is_in_doubt(seen: Seen) -> None:
    """A write whose answer was lost may have changed them with the record."""
    app, client = seen.fake_fleet.app, seen.fake_fleet.client
    await client.put(keys.members(app, 3), b'{"v": 1, "members": ["web-1"]}')
    await seen.put(Phase.STAGING)
    await seen.known_record(4)
    assert (await seen.reading()).members == ("web-1",)
    await client.put(keys.members(app, 3), b'{"v": 1, "members": ["web-1", "web-2"]}')
    assert (await seen.reading()).members == ("web-1",)
    seen.watch.invalidate()
    assert (await seen.reading()).members == ("web-1", "web-2")


async def test_hosts_are_gone_since_they_were_not_seen_by_this_watch(seen: Seen) -> None:
    """Counted from its first look, never from before; one that is back is not gone."""
    app, client = seen.fake_fleet.app, seen.fake_fleet.client
    await client.put(keys.node_report(app, parse_node("web-1")), report(app, "web-1"))

    async def looked(**expected: float | None) -> bool:
        reading = await seen.watch.reading()
        fleet = seen.watch.fleet(reading, None) if reading else None
        return fleet is not None and {str(host.node): host.gone_s for host in fleet} == {
            node.replace("_", "-"): gone_s for node, gone_s in expected.items()
        }

    assert await eventually(lambda: looked(web_1=0.0), deadline_s=5)
    seen.clock.at += 3600
    assert await eventually(lambda: looked(web_1=3600.0), deadline_s=5)
    assert [entry.key for entry in seen.watch.reports_of_gone(3600)] == [keys.node_report(app, parse_node("web-1"))]
    assert seen.watch.reports_of_gone(3601) == ()
    await seen.fake_fleet.agent_lives("web-1")
    assert await eventually(lambda: looked(web_1=None), deadline_s=5)
    assert seen.watch.reports_of_gone(0) == ()

"""A coordinator among mishaps: it goes on where it can, says why where it cannot, and then makes room for another."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from agent.adapters.consul.fleet import read_fleet, read_keys
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import TokenSource
from agent.core.model import keys
from agent.core.model.errors import ImagePullError
from agent.core.model.names import Digest, ImageReference, parse_node
from agent.core.model.record import Phase
from agent.core.rollout.advance import advance
from agent.core.rollout.commands import abort, pause
from agent.core.rollout.fleet import Fleet
from agent.runtime.fleet.coordinator import Coordinator, _Attempt
from agent.runtime.fleet.leader import Leader, LeaseTimings
from agent.runtime.wake import WakeSignal
from cluster.servers.process import eventually
from tests.adapters.consul.fleet_rig import BY, FakeFleet
from tests.adapters.consul.suite import new_app
from tests.adapters.fakes.consul import FakeConsul
from tests.adapters.fakes.consul import running as fake_running
from tests.adapters.fakes.consul_faults import Fault
from tests.clocks import ManualClock
from tests.fake_hosts import FakeHosts, empty_hosts
from tests.runtime.fleet.coordinator_rig import DIGEST, QUICK, Registry, begin, ended, running

pytestmark = pytest.mark.slow
IMPATIENT = replace(QUICK, unable_s=0.3, shy_s=0.2)
RECORD = "/v1/txn"


class FlakyConsul(FakeConsul):
    """Loses the answers to transactions, which it does all the same."""

    loses_txns = False

    async def _answer(self, request: web.Request) -> web.Response:
        answer = await super()._answer(request)
        self.fault = Fault.DROP if self.loses_txns and request.path == RECORD and answer.status == 200 else None
        return answer


@pytest.fixture(name="fake_fleet")
async def _fake_fleet() -> AsyncIterator[FakeFleet]:
    """A fake Consul, with a coordinator and a host in its catalog."""
    async with AsyncExitStack() as stack:
        consul = FlakyConsul()
        await consul.start()
        stack.push_async_callback(consul.kill)
        made = FakeFleet(consul, await stack.enter_async_context(ConsulClient(consul.url)), new_app())
        await made.agent_lives("core-1", app="", coordinator="true")
        await made.agent_lives("web-1")
        yield made


def made(fake_fleet: FakeFleet, registry: "Registry | Slow", timings: LeaseTimings = QUICK) -> Coordinator:
    wake = WakeSignal()
    lead = Leader(
        fake_fleet.client, fake_fleet.app, parse_node("core-1"), "core-1-boot", lambda: wake.call("lease"), timings
    )
    return Coordinator(fake_fleet.client, lead, registry.digest, wake)


def stage(fake_fleet: FakeFleet) -> FakeHosts:
    return empty_hosts(fake_fleet.client, fake_fleet.app, ["web-1"])


async def until(condition: Callable[[], bool], deadline_s: float = 8.0) -> bool:
    async def asked() -> bool:
        return condition()

    return await eventually(asked, deadline_s=deadline_s)


def writes(fake_fleet: FakeFleet) -> int:
    assert isinstance(fake_fleet.server, FakeConsul)
    return sum(path == RECORD for _, path, _ in fake_fleet.server.requests)


@dataclass(slots=True)
class Slow:
    """A registry that is away for some images."""

    away: set[str]
    asked: list[str] = field(default_factory=list)

    async def digest(self, image: ImageReference) -> Digest:
        self.asked.append(image)
        if image in self.away:
            raise ImagePullError("registry is away")
        return DIGEST


async def test_what_needs_no_report_is_not_waited_for(fake_fleet: FakeFleet) -> None:
    """From the last host staged to the commit: two changes and a consistent reading, at once."""
    async with running(stage(fake_fleet), made(fake_fleet, Registry())):
        await begin(fake_fleet)
        await ended(fake_fleet)
    listing = await fake_fleet.client.list(keys.histories(fake_fleet.app))
    entries = [json.loads(entry.value) for entry in listing.entries]
    times = {entry["to"]: datetime.fromisoformat(entry["at"]) for entry in reversed(entries)}
    assert (times[Phase.SWITCHING] - times[Phase.READY]).total_seconds() < 0.8, "a pause is at least 1 s"


async def test_a_write_whose_answer_was_lost_is_told_once_and_not_done_again(fake_fleet: FakeFleet) -> None:
    """Every one of a rollout: the record says that it was ours."""
    assert isinstance(fake_fleet.server, FlakyConsul)
    with capture_logs() as logs:
        async with running(stage(fake_fleet), coordinator := made(fake_fleet, Registry())):
            assert await until(lambda: coordinator.leader.lease is not None)
            await begin(fake_fleet)
            fake_fleet.server.loses_txns = True
            last = await ended(fake_fleet)
            assert await until(lambda: coordinator.view.record == last)
    told = [(line["generation"], line["seq"]) for line in logs if line["event"] == "rollout.advanced"]
    assert told == [(1, seq) for seq in range(1, last.seq + 1)]
    assert not [line for line in logs if line["event"] == "rollout.refused"]


async def test_a_command_that_was_faster_is_not_taken_for_the_coordinators_own_write(fake_fleet: FakeFleet) -> None:
    """A pause has the number and the epoch that the coordinator's change would have had."""
    coordinator = made(fake_fleet, Registry())
    await begin(fake_fleet)
    before = await read_fleet(fake_fleet.client, fake_fleet.app)
    assert before.record is not None
    change = advance(before.record, Fleet(), 1.0).change
    assert change is not None
    await fake_fleet.write(pause(before.keys, BY), before)
    record = (await read_fleet(fake_fleet.client, fake_fleet.app)).record
    assert record is not None
    assert (record.version, record.epoch) == (change.record.version, change.record.epoch)
    coordinator._unsure = _Attempt(change, "index is stale", 0.0)
    with capture_logs() as logs:
        coordinator._resolve_unknown_write(record)
    assert [line["event"] for line in logs] == ["rollout.refused"]


async def test_a_refusal_that_nobody_else_caused_is_not_tried_again_and_again(fake_fleet: FakeFleet) -> None:
    """Junk stands where the next audit entry belongs: it says so, with pauses, and gives the lock back."""
    await begin(fake_fleet)
    await fake_fleet.client.put(keys.history(fake_fleet.app, 1, 1), b"junk")
    async with running(stage(fake_fleet), coordinator := made(fake_fleet, Registry(), IMPATIENT)):
        assert await until(lambda: "the rollout could not be written" in coordinator.view.problem)
        before = writes(fake_fleet)
        await asyncio.sleep(1.0)
        assert writes(fake_fleet) - before < 12
        assert await until(lambda: coordinator.view.problem.startswith("resigned: the rollout could not be written"))
        await fake_fleet.client.delete(keys.history(fake_fleet.app, 1, 1))
        assert (await ended(fake_fleet)).phase is Phase.SUCCESSFUL


async def test_who_may_not_write_says_so_and_makes_room() -> None:
    """It has the lock and not the right to deploy."""
    async with fake_running(acl=True) as consul:
        app = new_app()
        rules = {f"{app}/": "read", f"{app}-status/": "write", "service tidegate-agent": "read"}
        token = await consul.grant(rules)
        almighty = await consul.grant({f"{app}/": "write", f"{app}-status/": "write", "service tidegate-agent": "read"})
        async with (
            ConsulClient(consul.url, token=TokenSource(almighty)) as client,
            ConsulClient(consul.url, token=TokenSource(token)) as weak,
        ):
            fake_fleet = FakeFleet(consul, client, app)
            await fake_fleet.agent_lives("core-1", app="", coordinator="true")
            await fake_fleet.agent_lives("web-1")
            await begin(fake_fleet)
            with capture_logs() as logs:
                async with running(coordinator := made(FakeFleet(consul, weak, app), Registry(), IMPATIENT)):
                    assert await until(lambda: "resigned: may not write the rollout" in coordinator.view.problem)
                    assert not coordinator.view.is_leading
            record = (await read_fleet(client, app)).record
            assert record is not None
            assert record.seq == 0
    assert sum(line["event"] == "coordinator.waits" for line in logs) == 1


async def test_a_record_of_a_newer_version_is_left_to_who_can_read_it(fake_fleet: FakeFleet) -> None:
    """It is not touched; a coordinator of that version gets the lock."""
    newer = json.dumps({"v": 99, "generation": 7, "seq": 1, "phase": "staging"}).encode()
    await fake_fleet.client.put(keys.rollout(fake_fleet.app), newer)
    async with running(coordinator := made(fake_fleet, Registry(), IMPATIENT)):
        assert await until(lambda: coordinator.view.problem.startswith("resigned: rollout record has version 99"))
    entry = await fake_fleet.client.get(keys.rollout(fake_fleet.app))
    assert entry is not None
    assert entry.value == newer


async def test_a_question_to_the_registry_ends_with_its_rollout(fake_fleet: FakeFleet) -> None:
    """An abort while the registry is away; the next rollout gets an answer of its own."""
    registry = Slow({"shop:gone"})
    async with running(stage(fake_fleet), made(fake_fleet, registry)):
        await begin(fake_fleet, "shop:gone")
        assert await until(lambda: bool(registry.asked))
        snapshot = await read_keys(fake_fleet.client, fake_fleet.app)
        reading = await read_fleet(fake_fleet.client, fake_fleet.app)
        await fake_fleet.write(abort(snapshot, BY), reading)
        assert (await ended(fake_fleet)).phase is Phase.ABORTED
        asked = len(registry.asked)
        await begin(fake_fleet, "shop:b")
        assert (await ended(fake_fleet)).phase is Phase.SUCCESSFUL
        assert registry.asked[asked:] == ["shop:b"]


async def test_a_new_lease_asks_the_registry_anew(fake_fleet: FakeFleet) -> None:
    """What was being asked ends with the lease; nothing waits for an answer that does not come."""
    registry = Slow({"shop:b"})
    async with running(stage(fake_fleet), coordinator := made(fake_fleet, registry, IMPATIENT)):
        await begin(fake_fleet)
        assert await until(lambda: bool(registry.asked))
        coordinator.leader.resign("for the test")
        assert await until(lambda: coordinator.leader.lease is None)
        registry.away.clear()
        last = await ended(fake_fleet)
    assert (last.phase, last.epoch) == (Phase.SUCCESSFUL, 2)


async def test_a_clock_that_is_stepped_fires_no_deadline(fake_fleet: FakeFleet) -> None:
    """Its time goes on with the monotonic clock from where it began."""
    clock = ManualClock()
    coordinator = replace(made(fake_fleet, Registry()), clock=clock)
    times = []
    for step in (0.0, 1.0, 3600.0):
        clock.at += step
        times.append(coordinator.now())
    assert [round(after - before, 3) for before, after in pairwise(times)] == [1.0, 3600.0]

"""Election, lease and the coordinator's loop, over the fake Consul and a real one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from agent.adapters.consul.fleet import read_fleet
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.sessions import destroy_session
from agent.core.model import keys
from agent.core.model.errors import ImagePullError, ImageRefusedError
from agent.core.model.names import Digest, parse_node
from agent.core.model.record import Phase
from agent.core.rollout.lock import holder_of
from agent.runtime.fleet.coordinator import Coordinator
from agent.runtime.fleet.leader import Leader
from agent.runtime.wake import WakeSignal
from cluster.servers.process import eventually
from tests.adapters.consul.fleet_rig import FakeFleet
from tests.adapters.consul.suite import BOTH, new_app, server_of
from tests.adapters.fakes.consul import FakeConsul
from tests.adapters.fakes.consul_faults import Fault
from tests.fake_hosts import LAST_LINES, empty_hosts
from tests.runtime.fleet.coordinator_rig import DIGEST, QUICK, Registry, begin, ended, running

OLD = Digest(f"sha256:{'a' * 64}")


@pytest.fixture(name="fake_fleet")
async def _fake_fleet(kind: str) -> AsyncIterator[FakeFleet]:
    """A server without ACLs, with two hosts and a coordinator in its catalog."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(server_of(kind))
        made = FakeFleet(server, await stack.enter_async_context(ConsulClient(server.url)), new_app())
        for node in ("core-1", "core-2"):
            await made.agent_lives(node, app="", coordinator="true")
        yield made


def leader(fake_fleet: FakeFleet, node: str, wake: WakeSignal | None = None) -> Leader:
    """Return a candidate."""
    woken = wake or WakeSignal()
    return Leader(
        fake_fleet.client, fake_fleet.app, parse_node(node), f"{node}-boot", lambda: woken.call("lease"), QUICK
    )


def coordinator(fake_fleet: FakeFleet, registry: Registry, node: str = "core-1") -> Coordinator:
    """Return an agent that stands for the lock and coordinates."""
    wake = WakeSignal()
    return Coordinator(fake_fleet.client, leader(fake_fleet, node, wake), registry.digest, wake)


async def leads(candidate: Leader) -> bool:
    """Whether it holds the lock."""
    return candidate.lease is not None


async def audit(fake_fleet: FakeFleet) -> list[dict[str, object]]:
    """Return the entries of all rollouts, in order; each version of the record has exactly one."""
    listing = await fake_fleet.client.list(keys.histories(fake_fleet.app))
    order = sorted(listing.entries, key=lambda entry: tuple(map(int, entry.key.split("/")[-2:])))
    assert [entry.key.split("/")[-1] for entry in order] == [str(number) for number in range(len(order))]
    return [json.loads(entry.value) for entry in order]


@BOTH
class TestElection:
    async def test_one_leads_and_another_takes_over_at_once_when_it_ends(self, fake_fleet: FakeFleet) -> None:
        """The lock is given back, not left to expire; the epoch rises."""
        first, second = leader(fake_fleet, "core-1"), leader(fake_fleet, "core-2")
        async with running(second):
            async with running(first):
                assert await eventually(lambda: _any(first, second), deadline_s=10)
                begun, other = (first, second) if first.lease else (second, first)
                assert other.lease is None
                epoch = begun.lease.epoch if begun.lease else 0
            assert await eventually(lambda: leads(second), deadline_s=10)
            assert second.lease is not None
            assert second.lease.epoch == (epoch + 1 if begun is first else epoch)
            holder = holder_of(await fake_fleet.client.get(keys.coordinator(fake_fleet.app)))
            assert holder is not None
            assert (holder.node, holder.instance) == ("core-2", "core-2-boot")

    async def test_who_lost_the_session_stops_and_stands_again(self, fake_fleet: FakeFleet) -> None:
        """Someone destroyed it: the next turn has a session and an epoch of its own."""
        only = leader(fake_fleet, "core-1")
        async with running(only):
            assert await eventually(lambda: leads(only), deadline_s=10)
            before = only.lease
            assert before is not None
            await destroy_session(fake_fleet.client, before.session)

            async def leads_anew() -> bool:
                return only.lease is not None and only.lease != before

            assert await eventually(leads_anew, deadline_s=10)
            assert only.lease is not None
            assert only.lease.epoch == before.epoch + 1

    async def test_who_cannot_renew_stops_before_the_session_can_have_expired(self, fake_fleet: FakeFleet) -> None:
        """Consul hangs: nobody says that the lease is over, its own clock does."""
        only = leader(fake_fleet, "core-1")
        async with running(only):
            assert await eventually(lambda: leads(only), deadline_s=10)
            await fake_fleet.server.freeze()
            try:

                async def fenced() -> bool:
                    return only.lease is None

                assert await eventually(fenced, deadline_s=QUICK.fence_s + 2 * QUICK.renew_s)
            finally:
                await fake_fleet.server.thaw()


@BOTH
class TestRollouts:
    async def test_a_first_deploy_and_the_next_one_run_to_their_end(self, fake_fleet: FakeFleet) -> None:
        """Phases in order, both mirrors at the end, an audit entry for each version of the record."""
        registry = Registry([OLD])
        stage = empty_hosts(fake_fleet.client, fake_fleet.app, ["web-1", "web-2"])
        for node in stage.reports:
            await fake_fleet.agent_lives(node)
        async with running(stage, coordinator(fake_fleet, registry)):
            await begin(fake_fleet, "shop:a")
            assert (await ended(fake_fleet)).phase is Phase.SUCCESSFUL
            registry.answers = [DIGEST]
            await begin(fake_fleet)
            last = await ended(fake_fleet)
        assert last.phase is Phase.SUCCESSFUL, last.why
        assert last.epoch == 1
        image = f"shop:b@{DIGEST}".encode()
        for key in (keys.active_image(fake_fleet.app), keys.stage_image(fake_fleet.app)):
            entry = await fake_fleet.client.get(key)
            assert entry is not None
            assert entry.value == image
        second = await fake_fleet.client.list(keys.history_of(fake_fleet.app, 2))
        assert len(second.entries) == last.seq + 1

    async def test_a_host_that_fails_ends_it_before_anybody_saw_it(self, fake_fleet: FakeFleet) -> None:
        """The reason and the container's last lines are in the record and its audit entry."""
        stage = empty_hosts(fake_fleet.client, fake_fleet.app, ["web-1", "web-2"])
        stage.sick["web-2"] = "GET / answered 500"
        for node in stage.reports:
            await fake_fleet.agent_lives(node)
        async with running(stage, coordinator(fake_fleet, Registry())):
            await begin(fake_fleet)
            last = await ended(fake_fleet)
        assert last.phase is Phase.ABORTED
        assert last.why == "web-2: GET / answered 500"
        entries = await audit(fake_fleet)
        assert next(entry for entry in entries if entry["to"] == Phase.ABORTING)["lines"] == list(LAST_LINES)
        assert await fake_fleet.client.get(keys.active_image(fake_fleet.app)) is None

    async def test_a_coordinator_that_dies_is_followed_by_another(self, fake_fleet: FakeFleet) -> None:
        """In mid-rollout: the next one continues from the record, as the holder of the next epoch."""
        stage = empty_hosts(fake_fleet.client, fake_fleet.app, ["web-1"])
        first, second = coordinator(fake_fleet, Registry()), coordinator(fake_fleet, Registry(), "core-2")
        async with running(stage):
            async with running(first):
                assert await eventually(lambda: leads(first.leader), deadline_s=10)
                await begin(fake_fleet)
                assert await eventually(lambda: _waits_for(first, "min_members is 1"), deadline_s=10)
            await fake_fleet.agent_lives("web-1")
            async with running(second):
                last = await ended(fake_fleet)
        assert (last.phase, last.epoch) == (Phase.SUCCESSFUL, 2)
        await audit(fake_fleet)

    async def test_an_image_the_registry_does_not_have_ends_it(self, fake_fleet: FakeFleet) -> None:
        """Asked again while the registry is away; refused, it is not asked again."""
        registry = Registry([ImagePullError("registry is away"), ImageRefusedError("has no shop:b")])
        await fake_fleet.agent_lives("web-1")
        async with running(
            empty_hosts(fake_fleet.client, fake_fleet.app, ["web-1"]), coordinator(fake_fleet, registry)
        ):
            await begin(fake_fleet)
            last = await ended(fake_fleet)
        assert (last.phase, last.why) == (Phase.ABORTED, "shop:b: has no shop:b")
        assert registry.asked == 2

    async def test_a_coordinator_the_catalog_does_not_show_does_not_act(self, fake_fleet: FakeFleet) -> None:
        """A catalog that hides it may hide hosts, too."""
        hidden = coordinator(fake_fleet, Registry(), "core-3")
        await fake_fleet.agent_lives("web-1")
        async with running(empty_hosts(fake_fleet.client, fake_fleet.app, ["web-1"]), hidden):
            await begin(fake_fleet)
            assert await eventually(lambda: _says(hidden, "the catalog does not show this agent"), deadline_s=10)
            record = (await read_fleet(fake_fleet.client, fake_fleet.app)).record
            assert record is not None
            assert (record.phase, record.seq) == (Phase.PENDING, 0)
            await fake_fleet.agent_lives("core-3", app="", coordinator="true")
            assert (await ended(fake_fleet)).phase is Phase.SUCCESSFUL


@pytest.mark.parametrize("kind", ["fake"])
class TestFaults:
    """What a real server cannot be made to do."""

    async def test_lost_answers_happen_once(self, fake_fleet: FakeFleet) -> None:
        """Consul does what is asked and says nothing: the record is read again, no change is made twice."""
        assert isinstance(fake_fleet.server, FakeConsul)
        stage = empty_hosts(fake_fleet.client, fake_fleet.app, ["web-1"])
        await fake_fleet.agent_lives("web-1")
        async with running(stage, coordinator(fake_fleet, Registry())):
            await begin(fake_fleet)
            for _ in range(8):
                fake_fleet.server.fault = Fault.DROP
                await asyncio.sleep(0.15)
                fake_fleet.server.fault = None
                await asyncio.sleep(0.3)
            last = await ended(fake_fleet, deadline_s=30)
        assert last.phase is Phase.SUCCESSFUL, last.why
        assert len(await audit(fake_fleet)) == last.seq + 1


async def _any(*candidates: Leader) -> bool:
    return any(candidate.lease is not None for candidate in candidates)


async def _waits_for(each: Coordinator, words: str) -> bool:
    return any(words in wait.reason for wait in each.view.waits)


async def _says(each: Coordinator, words: str) -> bool:
    return words in each.view.problem

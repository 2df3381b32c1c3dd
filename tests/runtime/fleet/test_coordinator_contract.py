"""Election, lease and the coordinator's loop, over the fake Consul and a real one."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from agent.adapters.consul.fleet import read_fleet, write_change
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.sessions import destroy_session
from agent.adapters.consul.wire import TxnDone
from agent.core.model import keys
from agent.core.model.errors import ImagePullError, ImageRefusedError, TidegateError
from agent.core.model.names import Digest, ImageReference, parse_node
from agent.core.model.record import Phase
from agent.core.rollout.change import writes_of
from agent.core.rollout.commands import deploy
from agent.core.rollout.decision import Decision, Request
from agent.core.rollout.lock import holder_of
from agent.core.rollout.strategy import Strategy
from agent.runtime.fleet.coordinator import Coordinator
from agent.runtime.fleet.leader import Leader, Terms
from agent.runtime.wake import Wake
from cluster.servers.process import eventually
from tests.adapters.consul.suite import BOTH, new_app, server_of
from tests.adapters.consul.test_fleet import BY, Town
from tests.adapters.fakes.consul import FakeConsul
from tests.adapters.fakes.consul_faults import Fault
from tests.runtime.fleet.fake_hosts import Puppet, Stage

QUICK = Terms(ttl_s=10, renew_s=0.3, fence_s=1.0, wait_s=1.0, jitter_s=0.05, retry_s=0.1)
STRATEGY = Strategy(bake_time=0.0, drain_idle=1.0, drain_timeout=30.0, progress_deadline=20.0, min_healthy_time=0.5)
DIGEST = Digest(f"sha256:{'b' * 64}")
OLD = Digest(f"sha256:{'a' * 64}")


@dataclass(slots=True)
class Registry:
    """Answers what it is told to, one answer after another; the last one stays."""

    answers: list[Digest | TidegateError] = field(default_factory=lambda: [DIGEST])
    asked: int = 0

    async def digest(self, _: ImageReference) -> Digest:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, TidegateError):
            raise answer
        return answer


@pytest.fixture
async def town(kind: str) -> AsyncIterator[Town]:
    """A server without ACLs, with two hosts and a coordinator in its catalog."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(server_of(kind))
        made = Town(server, await stack.enter_async_context(ConsulClient(server.url)), new_app())
        for node in ("core-1", "core-2"):
            await made.agent_lives(node, app="", coordinator="true")
        yield made


@asynccontextmanager
async def running(*tasks: object) -> AsyncIterator[None]:
    """Run what has a ``run`` beside the test."""
    async with asyncio.TaskGroup() as group:
        begun = [group.create_task(each.run()) for each in tasks]  # type: ignore[attr-defined]
        yield
        for task in begun:
            task.cancel()


def leader(town: Town, node: str, wake: Wake | None = None) -> Leader:
    """Return a candidate."""
    woken = wake or Wake()
    return Leader(town.client, town.app, parse_node(node), f"{node}-boot", lambda: woken.call("lease"), QUICK)


def coordinator(town: Town, registry: Registry, node: str = "core-1") -> Coordinator:
    """Return an agent that stands for the lock and coordinates."""
    wake = Wake()
    return Coordinator(town.client, leader(town, node, wake), registry.digest, wake)


async def leads(candidate: Leader) -> bool:
    """Whether it holds the lock."""
    return candidate.lease is not None


async def begin(town: Town, image: str = "shop:b", strategy: Strategy = STRATEGY) -> None:
    """Deploy as an operator does."""
    reading = await read_fleet(town.client, town.app)
    change = deploy(reading.keys, reading.reports.values(), Request(image=ImageReference(image)), strategy, BY)
    writes = writes_of(town.app, change, reading.indexes, by="ann", now=time.time())
    assert isinstance(await write_change(town.client, town.app, writes), TxnDone)


async def ended(town: Town, *, deadline_s: float = 20.0) -> Decision:
    """Wait for the end of the rollout."""
    last: Decision | None = None

    async def has_ended() -> bool:
        nonlocal last
        try:
            last = (await read_fleet(town.client, town.app)).record
        except TidegateError:
            return False
        return last is not None and last.phase.is_terminal

    assert await eventually(has_ended, deadline_s=deadline_s), last
    assert last is not None
    return last


async def audit(town: Town) -> list[dict[str, object]]:
    """Return the entries of all rollouts, in order; each version of the record has exactly one."""
    listing = await town.client.list(keys.histories(town.app))
    order = sorted(listing.entries, key=lambda entry: tuple(map(int, entry.key.split("/")[-2:])))
    assert [entry.key.split("/")[-1] for entry in order] == [str(number) for number in range(len(order))]
    return [json.loads(entry.value) for entry in order]


@BOTH
class TestElection:
    async def test_one_leads_and_another_takes_over_at_once_when_it_ends(self, town: Town) -> None:
        """The lock is given back, not left to expire; the epoch rises."""
        first, second = leader(town, "core-1"), leader(town, "core-2")
        async with running(second):
            async with running(first):
                assert await eventually(lambda: _any(first, second), deadline_s=10)
                begun, other = (first, second) if first.lease else (second, first)
                assert other.lease is None
                epoch = begun.lease.epoch if begun.lease else 0
            assert await eventually(lambda: leads(second), deadline_s=10)
            assert second.lease is not None
            assert second.lease.epoch == (epoch + 1 if begun is first else epoch)
            holder = holder_of(await town.client.get(keys.coordinator(town.app)))
            assert holder is not None
            assert (holder.node, holder.instance) == ("core-2", "core-2-boot")

    async def test_who_lost_the_session_stops_and_stands_again(self, town: Town) -> None:
        """Someone destroyed it: the next turn has a session and an epoch of its own."""
        only = leader(town, "core-1")
        async with running(only):
            assert await eventually(lambda: leads(only), deadline_s=10)
            before = only.lease
            assert before is not None
            await destroy_session(town.client, before.session)

            async def leads_anew() -> bool:
                return only.lease is not None and only.lease != before

            assert await eventually(leads_anew, deadline_s=10)
            assert only.lease is not None
            assert only.lease.epoch == before.epoch + 1

    async def test_who_cannot_renew_stops_before_the_session_can_have_expired(self, town: Town) -> None:
        """Consul hangs: nobody says that the lease is over, its own clock does."""
        only = leader(town, "core-1")
        async with running(only):
            assert await eventually(lambda: leads(only), deadline_s=10)
            await town.server.freeze()
            try:

                async def fenced() -> bool:
                    return only.lease is None

                assert await eventually(fenced, deadline_s=QUICK.fence_s + 2 * QUICK.renew_s)
            finally:
                await town.server.thaw()


@BOTH
class TestRollouts:
    async def test_a_first_deploy_and_the_next_one_run_to_their_end(self, town: Town) -> None:
        """Phases in order, both mirrors at the end, an audit entry for each version of the record."""
        registry = Registry([OLD])
        stage = Stage(town.client, town.app, [Puppet("web-1"), Puppet("web-2")])
        for puppet in stage.puppets:
            await town.agent_lives(puppet.node)
        async with running(stage, coordinator(town, registry)):
            await begin(town, "shop:a")
            assert (await ended(town)).phase is Phase.SUCCESSFUL
            registry.answers = [DIGEST]
            await begin(town)
            last = await ended(town)
        assert last.phase is Phase.SUCCESSFUL, last.why
        assert last.epoch == 1
        image = f"shop:b@{DIGEST}".encode()
        for key in (keys.active_image(town.app), keys.stage_image(town.app)):
            entry = await town.client.get(key)
            assert entry is not None
            assert entry.value == image
        second = await town.client.list(keys.history_of(town.app, 2))
        assert len(second.entries) == last.seq + 1

    async def test_a_host_that_fails_ends_it_before_anybody_saw_it(self, town: Town) -> None:
        """The reason and the container's last lines are in the record and its audit entry."""
        stage = Stage(town.client, town.app, [Puppet("web-1"), Puppet("web-2", fails="GET / answered 500")])
        for puppet in stage.puppets:
            await town.agent_lives(puppet.node)
        async with running(stage, coordinator(town, Registry())):
            await begin(town)
            last = await ended(town)
        assert last.phase is Phase.ABORTED
        assert last.why == "web-2: GET / answered 500"
        entries = await audit(town)
        assert next(entry for entry in entries if entry["to"] == Phase.ABORTING)["lines"] == ["bye"]
        assert await town.client.get(keys.active_image(town.app)) is None

    async def test_a_coordinator_that_dies_is_followed_by_another(self, town: Town) -> None:
        """In mid-rollout: the next one continues from the record, as the holder of the next epoch."""
        stage = Stage(town.client, town.app, [Puppet("web-1")])
        first, second = coordinator(town, Registry()), coordinator(town, Registry(), "core-2")
        async with running(stage):
            async with running(first):
                assert await eventually(lambda: leads(first.leader), deadline_s=10)
                await begin(town)
                assert await eventually(lambda: _waits_for(first, "at least 1 wanted"), deadline_s=10)
            await town.agent_lives("web-1")
            async with running(second):
                last = await ended(town)
        assert (last.phase, last.epoch) == (Phase.SUCCESSFUL, 2)
        await audit(town)

    async def test_an_image_the_registry_does_not_have_ends_it(self, town: Town) -> None:
        """Asked again while the registry is away; refused, it is not asked again."""
        registry = Registry([ImagePullError("registry is away"), ImageRefusedError("has no shop:b")])
        await town.agent_lives("web-1")
        async with running(Stage(town.client, town.app, [Puppet("web-1")]), coordinator(town, registry)):
            await begin(town)
            last = await ended(town)
        assert (last.phase, last.why) == (Phase.ABORTED, "shop:b: has no shop:b")
        assert registry.asked == 2

    async def test_a_coordinator_the_catalog_does_not_show_does_not_act(self, town: Town) -> None:
        """A catalog that hides it may hide hosts, too."""
        hidden = coordinator(town, Registry(), "core-3")
        await town.agent_lives("web-1")
        async with running(Stage(town.client, town.app, [Puppet("web-1")]), hidden):
            await begin(town)
            assert await eventually(lambda: _says(hidden, "the catalog does not show this agent"), deadline_s=10)
            record = (await read_fleet(town.client, town.app)).record
            assert record is not None
            assert (record.phase, record.seq) == (Phase.PENDING, 0)
            await town.agent_lives("core-3", app="", coordinator="true")
            assert (await ended(town)).phase is Phase.SUCCESSFUL


@pytest.mark.parametrize("kind", ["fake"])
class TestFaults:
    """What a real server cannot be made to do."""

    async def test_lost_answers_happen_once(self, town: Town) -> None:
        """Consul does what is asked and says nothing: the record is read again, no change is made twice."""
        assert isinstance(town.server, FakeConsul)
        stage = Stage(town.client, town.app, [Puppet("web-1")])
        await town.agent_lives("web-1")
        async with running(stage, coordinator(town, Registry())):
            await begin(town)
            for _ in range(8):
                town.server.fault = Fault.DROP
                await asyncio.sleep(0.15)
                town.server.fault = None
                await asyncio.sleep(0.3)
            last = await ended(town, deadline_s=30)
        assert last.phase is Phase.SUCCESSFUL, last.why
        assert len(await audit(town)) == last.seq + 1


async def _any(*candidates: Leader) -> bool:
    return any(candidate.lease is not None for candidate in candidates)


async def _waits_for(each: Coordinator, words: str) -> bool:
    return any(words in wait.reason for wait in each.view.waits)


async def _says(each: Coordinator, words: str) -> bool:
    return words in each.view.problem

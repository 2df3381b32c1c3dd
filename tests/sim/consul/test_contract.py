"""The Consul below the simulation answers the real client as the verified fake and a real server do."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from agent.adapters.consul.kv import Block, ConsulClient
from agent.adapters.consul.services import AGENT_SERVICE, agent_service, health_service, register_service
from agent.adapters.consul.sessions import (
    SessionGoneError,
    SessionSpec,
    create_session,
    destroy_session,
    renew_session,
)
from agent.adapters.consul.wire import Op, TxnConflict, TxnDone, Verb
from agent.core.model.names import AppName, NodeName
from tests.adapters.consul.suite import new_app, server_of
from tests.sim.consul.link import Link
from tests.sim.consul.servers import SimConsul
from tests.sim.consul.transport import SimTransport, client_over
from tests.sim.virtual_time import Process
from tests.sim.world_clock import WorldClock

Scenario = Callable[[ConsulClient, AppName], Awaitable[None]]


async def keys_are_written_listed_and_removed(client: ConsulClient, app: AppName) -> None:
    """An equal value keeps its index; a prefix is read whole, and looks absent once it is empty."""
    assert await client.get(f"{app}/a") is None
    assert await client.put(f"{app}/a", b"\x00\xff")
    first = await client.get(f"{app}/a")
    assert first is not None
    assert (first.value, first.session) == (b"\x00\xff", "")
    assert await client.put(f"{app}/a", b"\x00\xff")
    assert await client.get(f"{app}/a") == first
    assert await client.put(f"{app}/b", b"2")
    listing = await client.list(f"{app}/")
    assert [entry.key for entry in listing.entries] == [f"{app}/a", f"{app}/b"]
    assert listing.index == listing.entries[1].modify_index > first.modify_index
    assert await client.delete(f"{app}/a")
    assert await client.delete(f"{app}/b")
    assert (await client.list(f"{app}/")).entries == ()


async def a_guarded_write_happens_only_over_what_was_read(client: ConsulClient, app: AppName) -> None:
    """By `cas`; 0 creates."""
    assert await client.put(f"{app}/a", b"1", cas=0)
    assert not await client.put(f"{app}/a", b"2", cas=0)
    entry = await client.get(f"{app}/a")
    assert entry is not None
    assert await client.put(f"{app}/a", b"3", cas=entry.modify_index)
    assert not await client.delete(f"{app}/a", cas=entry.modify_index)


async def a_transaction_is_done_whole_or_not_at_all(client: ConsulClient, app: AppName) -> None:
    """The guard that did not hold is named by its number; what was written is told with its index."""
    done = await client.txn(Op(Verb.CHECK_NOT_EXISTS, f"{app}/a"), Op(Verb.SET, f"{app}/a", b"1"))
    assert isinstance(done, TxnDone)
    entry = await client.get(f"{app}/a")
    assert entry is not None
    assert [(each.key, each.modify_index) for each in done.results] == [(f"{app}/a", entry.modify_index)]
    refused = await client.txn(Op(Verb.SET, f"{app}/b", b"1"), Op(Verb.CAS, f"{app}/a", b"2", index=1))
    assert isinstance(refused, TxnConflict)
    assert refused.op_index == 1
    assert await client.get(f"{app}/b") is None
    missing = await client.txn(Op(Verb.CHECK_INDEX, f"{app}/no", index=0), Op(Verb.SET, f"{app}/b", b"1"))
    assert isinstance(missing, TxnConflict)


async def a_lock_ends_with_its_session_and_its_key_stays(client: ConsulClient, app: AppName) -> None:
    """Who holds no lock any more fails by `check-session`."""
    key = f"{app}/lock"
    session, other = [await create_session(client, SessionSpec("test")) for _ in range(2)]
    assert isinstance(await client.txn(Op(Verb.LOCK, key, b"me", session=session)), TxnDone)
    assert isinstance(await client.txn(Op(Verb.LOCK, key, b"you", session=other)), TxnConflict)
    fenced = (Op(Verb.CHECK_SESSION, key, session=session), Op(Verb.SET, f"{app}/a", b"1"))
    assert isinstance(await client.txn(*fenced), TxnDone)
    await renew_session(client, session)
    await destroy_session(client, session)
    entry = await client.get(key)
    assert entry is not None
    assert (entry.value, entry.session) == (b"me", "")
    assert isinstance(await client.txn(*fenced), TxnConflict)
    with pytest.raises(SessionGoneError):
        await renew_session(client, session)
    await destroy_session(client, other)


async def a_blocked_read_answers_at_a_change_below_its_prefix(client: ConsulClient, app: AppName) -> None:
    """And not at a change beside it; at the end of its wait it answers with what it had."""
    await client.put(f"{app}/a", b"1")
    known = await client.list(f"{app}/")
    block = Block(known.index, wait_s=30)
    async with asyncio.TaskGroup() as group:
        below = group.create_task(client.list(f"{app}/", block=block))
        single = group.create_task(client.get_blocking(f"{app}/a", block))
        await asyncio.sleep(0.1)
        await client.put(f"{app}-beside/a", b"1")
        await asyncio.sleep(0.1)
        assert not below.done()
        await client.put(f"{app}/a", b"2")
    assert [entry.value for entry in below.result().entries] == [b"2"]
    assert [entry.value for entry in single.result().entries] == [b"2"]
    assert below.result().index > known.index
    again = await client.list(f"{app}/", block=Block(below.result().index, wait_s=0.05))
    assert again == below.result()


async def an_agent_is_found_by_its_service(client: ConsulClient, app: AppName) -> None:
    """With its metadata; registering it anew changes them."""
    service = agent_service(NodeName("web-1"), 7080, "http://127.0.0.1:1/healthz", {"app": app, "instance": "one"})
    await register_service(client, service)
    first = await health_service(client, AGENT_SERVICE)
    await register_service(client, replace(service, meta={"app": app, "instance": "two"}))
    found = await health_service(client, AGENT_SERVICE, block=Block(first.index, wait_s=5))
    assert [each.meta["instance"] for each in found.instances if each.meta.get("app") == app] == ["two"]
    assert found.index >= first.index
    assert not found.is_filtered


SCENARIOS: list[Scenario] = [
    keys_are_written_listed_and_removed,
    a_guarded_write_happens_only_over_what_was_read,
    a_transaction_is_done_whole_or_not_at_all,
    a_lock_ends_with_its_session_and_its_key_stays,
    a_blocked_read_answers_at_a_change_below_its_prefix,
    an_agent_is_found_by_its_service,
]
EACH = pytest.mark.parametrize("scenario", SCENARIOS, ids=[each.__name__ for each in SCENARIOS])


@EACH
def test_the_simulated_consul_does_as_consul_does(scenario: Scenario) -> None:
    """In virtual time, below the real client."""
    clock = WorldClock()
    transport = SimTransport(Link(SimConsul(clock), random.Random(1)), "web-1", "test")
    task = Process(clock.loop).spawn(_run(scenario, client_over(transport)))
    clock.run(600.0, stop=task.done)
    clock.end()
    assert task.done()
    assert task.exception() is None


@EACH
@pytest.mark.parametrize("kind", ["fake", pytest.param("real", marks=[pytest.mark.real, pytest.mark.slow])])
async def test_the_fake_and_a_real_consul_do_the_same(scenario: Scenario, kind: str) -> None:
    """What the simulated one is held to."""
    async with server_of(kind) as server, ConsulClient(server.url) as client:
        await scenario(client, new_app())


async def _run(scenario: Scenario, client: ConsulClient) -> None:
    await scenario(client, new_app())

"""A coordinator that was deposed writes nothing: refused by a real Consul in default deny, by session and by index."""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from agent.adapters.consul.fleet import Fence, FleetReading, read_fleet, write_change
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.policies import Role, policy
from agent.adapters.consul.services import agent_service, deregister_service, register_service
from agent.adapters.consul.sessions import SessionSpec, create_session, destroy_session
from agent.adapters.consul.transport import TokenSource
from agent.adapters.consul.wire import Op, TxnConflict, TxnDenied, TxnDone, TxnResult, Verb
from agent.core.model import keys
from agent.core.model.names import AppName, ImageReference, parse_app, parse_node
from agent.core.rollout.advance import advance
from agent.core.rollout.change import Change, signed, writes_of
from agent.core.rollout.commands import CommandAuthor, deploy, pause
from agent.core.rollout.decision import Request
from agent.core.rollout.fleet import Fleet
from agent.core.rollout.strategy import Strategy
from cluster.servers.consul import ConsulServer

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
NODE = parse_node("fenced-1")
BY = CommandAuthor("lab", "a test", 0.0)


@dataclass(frozen=True, slots=True)
class Fixture:
    """One app, an operator and a coordinator, each with the token of their role."""

    app: AppName
    operator: ConsulClient
    coordinator: ConsulClient

    async def lock(self) -> Fence:
        """Take the lock in a session of its own."""
        session = await create_session(self.coordinator, SessionSpec("lab"))
        lock = Op(Verb.LOCK, keys.coordinator(self.app), b"{}", session=session)
        assert isinstance(await self.coordinator.txn(lock), TxnDone)
        return Fence(session)

    async def begin(self) -> FleetReading:
        """Deploy, as an operator; return what a coordinator then reads."""
        reading = await read_fleet(self.operator, self.app)
        request = Request(image=ImageReference("registry.example/shop:b"))
        await self.command(deploy(reading.keys, (), request, Strategy(), BY), reading)
        return await read_fleet(self.coordinator, self.app)

    async def command(self, change: Change, reading: FleetReading) -> TxnResult:
        """Write a command's change."""
        writes = writes_of(self.app, change, reading.indexes, by="operator", now=time.time())
        return await write_change(self.operator, self.app, writes)

    async def step(self, reading: FleetReading, fence: Fence, epoch: int) -> TxnResult:
        """Write what follows from *reading*, as the holder of *fence*."""
        assert reading.record is not None
        change = advance(reading.record, Fleet(), time.time()).change
        assert change is not None
        writes = writes_of(self.app, signed(change, epoch), reading.indexes, by="coordinator", now=time.time())
        return await write_change(self.coordinator, self.app, writes, fence)


@pytest_asyncio.fixture(loop_scope="session", name="fixture")
async def _fixture(acl_consul: ConsulServer) -> AsyncIterator[Fixture]:
    app = parse_app(f"lab-{uuid.uuid4().hex[:8]}")
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                ConsulClient(acl_consul.address, token=TokenSource(await acl_consul.create_token(policy(role, app))))
            )
            for role in (Role.OPERATOR, Role.COORDINATOR)
        ]
        service = agent_service(NODE, 1, "http://127.0.0.1:1/", {"node": NODE, "coordinator": "true"})
        await register_service(clients[1], service)
        yield Fixture(app, *clients)
        await deregister_service(clients[1], service.id)


async def test_who_lost_the_lock_cannot_write_what_it_decided(fixture: Fixture) -> None:
    """Its session is gone while it thinks it leads; the next holder writes, and the record has one author."""
    deposed = await fixture.lock()
    reading = await fixture.begin()
    await destroy_session(fixture.coordinator, deposed.session)
    assert isinstance(await fixture.step(reading, deposed, 1), TxnConflict)
    leader = await fixture.lock()
    assert isinstance(await fixture.step(reading, deposed, 1), TxnConflict)
    assert isinstance(await fixture.step(reading, leader, 2), TxnDone)
    after = await read_fleet(fixture.coordinator, fixture.app)
    assert after.record is not None
    assert (after.record.epoch, after.record.seq) == (2, 1)


async def test_who_read_an_older_record_cannot_write_over_a_command(fixture: Fixture) -> None:
    """The lock alone is not enough: a pause came between reading and writing."""
    leader = await fixture.lock()
    reading = await fixture.begin()
    assert isinstance(await fixture.command(pause(reading.keys, BY), reading), TxnDone)
    assert isinstance(await fixture.step(reading, leader, 1), TxnConflict)
    assert isinstance(await fixture.step(await read_fleet(fixture.coordinator, fixture.app), leader, 1), TxnDone)


async def test_an_answer_that_was_lost_cannot_happen_twice(fixture: Fixture) -> None:
    """The same write again is refused: whoever got no answer reads again and compares."""
    leader = await fixture.lock()
    reading = await fixture.begin()
    assert isinstance(await fixture.step(reading, leader, 1), TxnDone)
    assert isinstance(await fixture.step(reading, leader, 1), TxnConflict)
    history = await fixture.coordinator.list(keys.histories(fixture.app))
    assert [entry.key.rpartition("/")[2] for entry in history.entries] == ["0", "1"]


async def test_of_two_deploys_at_once_one_is_written(fixture: Fixture) -> None:
    """Both read the same state; the second is refused by Consul, and told who was first by reading again."""
    before = await read_fleet(fixture.operator, fixture.app)
    both = [
        deploy(before.keys, (), Request(image=ImageReference(f"registry.example/shop:{tag}")), Strategy(), BY)
        for tag in ("b", "c")
    ]
    results = [await fixture.command(change, before) for change in both]
    assert [type(result) for result in results] == [TxnDone, TxnConflict]


async def test_an_operator_cannot_do_a_coordinators_step(fixture: Fixture) -> None:
    """The mirrors' specs and the lock are not theirs."""
    lock = Op(Verb.SET, keys.coordinator(fixture.app), b"{}")
    assert isinstance(await fixture.operator.txn(lock), TxnDenied)

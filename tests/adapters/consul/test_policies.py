"""The shipped ACL policies under default deny, on a real server: what each role may do, and nothing beside it."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.policies import Role, policy, policy_name
from agent.adapters.consul.services import (
    AGENT_SERVICE,
    Service,
    agent_self,
    deregister_service,
    health_service,
    register_service,
)
from agent.adapters.consul.sessions import SessionSpec, create_session, destroy_session
from agent.adapters.consul.transport import Request, TokenSource
from agent.adapters.consul.wire import Op, TxnDenied, Verb
from agent.core.model import keys
from agent.core.model.errors import ConsulForbiddenError
from agent.core.model.names import AppName, parse_app, parse_node
from cluster.servers.consul import ConsulServer

NODE = parse_node("web-1")
ALL = frozenset(Role)
NODES, COORDINATORS, OPERATORS = frozenset({Role.NODE}), frozenset({Role.COORDINATOR}), frozenset({Role.OPERATOR})


@dataclass(frozen=True, slots=True)
class Fixture:
    """One app, and a client with the token of one role."""

    client: ConsulClient
    app: AppName


Attempt = Callable[[Fixture], Awaitable[bool]]


def reads(key: Callable[[AppName], str]) -> Attempt:
    async def attempt(fixture: Fixture) -> bool:
        await fixture.client.get(key(fixture.app))
        return True

    return attempt


def lists(prefix: Callable[[AppName], str]) -> Attempt:
    """A listing without the right looks empty, so something is there to be seen."""

    async def attempt(fixture: Fixture) -> bool:
        return bool((await fixture.client.list(prefix(fixture.app))).entries)

    return attempt


def writes(key: Callable[[AppName], str]) -> Attempt:
    """Alone and in a transaction, where a missing right looks different; and what may be written may be deleted."""

    async def attempt(fixture: Fixture) -> bool:
        name = key(fixture.app)
        alone = True
        try:
            await fixture.client.put(name, b"x")
        except ConsulForbiddenError:
            alone = False
        together = not isinstance(await fixture.client.txn(Op(Verb.SET, name, b"y")), TxnDenied)
        assert alone == together
        if alone:
            assert await fixture.client.delete(name)
        return alone

    return attempt


async def locks(fixture: Fixture) -> bool:
    session = await create_session(fixture.client, SessionSpec("lab"))
    try:
        lock = Op(Verb.LOCK, keys.coordinator(fixture.app), b"{}", session=session)
        return not isinstance(await fixture.client.txn(lock), TxnDenied)
    finally:
        await destroy_session(fixture.client, session)


def registers(name: Callable[[AppName], str]) -> Attempt:
    async def attempt(fixture: Fixture) -> bool:
        service = Service(f"lab-{uuid.uuid4().hex[:6]}", name(fixture.app), 1, "http://127.0.0.1:1/", {})
        await register_service(fixture.client, service)
        await deregister_service(fixture.client, service.id)
        return True

    return attempt


def sees(name: Callable[[AppName], str]) -> Attempt:
    async def attempt(fixture: Fixture) -> bool:
        return bool((await health_service(fixture.client, name(fixture.app))).instances)

    return attempt


async def names_its_agent(fixture: Fixture) -> bool:
    return bool((await agent_self(fixture.client)).version)


async def lists_tokens(fixture: Fixture) -> bool:
    await fixture.client.http.send(Request("GET", "/v1/acl/tokens"))
    return True


def _other(app: AppName) -> AppName:
    return parse_app(f"{app}x")


def _agent(_app: AppName) -> str:
    return AGENT_SERVICE


TABLE: dict[str, tuple[Attempt, frozenset[Role]]] = {
    "read the desired state": (lists(keys.app_prefix), ALL),
    "read that a key is absent": (reads(keys.stage_spec), ALL),
    "write the record": (writes(keys.rollout), COORDINATORS | OPERATORS),
    "write active/image": (writes(keys.active_image), COORDINATORS | OPERATORS),
    "write stage/image": (writes(keys.stage_image), COORDINATORS | OPERATORS),
    "write active/spec": (writes(keys.active_spec), COORDINATORS),
    "write stage/spec": (writes(keys.stage_spec), COORDINATORS),
    "write another key beside them": (writes(lambda app: f"{app}/port"), frozenset()),
    "write a report, and delete it": (writes(lambda app: keys.node_report(app, NODE)), NODES | COORDINATORS),
    "write an audit entry": (writes(lambda app: keys.history(app, 1, 1)), COORDINATORS | OPERATORS),
    "write members": (writes(lambda app: keys.members(app, 1)), COORDINATORS),
    "write the lock without holding it": (writes(keys.coordinator), COORDINATORS),
    "hold the lock": (locks, COORDINATORS),
    "read the reports": (lists(keys.node_reports), ALL),
    "read the history": (lists(keys.histories), ALL - NODES),
    "read who coordinates": (reads(keys.coordinator), ALL - NODES),
    "register the app": (registers(lambda app: app), NODES),
    "register the agent": (registers(_agent), NODES | COORDINATORS),
    "register anything else": (registers(_other), frozenset()),
    "see the app's instances": (sees(lambda app: app), ALL),
    "see the agents": (sees(_agent), ALL),
    "see the version of the local Consul agent": (names_its_agent, ALL),
    "read another app": (reads(lambda app: keys.active_image(_other(app))), frozenset()),
    "write another app": (writes(lambda app: keys.rollout(_other(app))), frozenset()),
    "report for another app": (writes(lambda app: keys.node_report(_other(app), NODE)), frozenset()),
    "read tokens": (lists_tokens, frozenset()),
}


@dataclass(frozen=True, slots=True)
class FakeFleet:
    """An app with something in each place, and a client for each role."""

    app: AppName
    clients: dict[Role, ConsulClient]


@pytest_asyncio.fixture(scope="module", loop_scope="session", name="fake_fleet")
async def _fake_fleet(acl_consul: ConsulServer) -> AsyncIterator[FakeFleet]:
    app = parse_app(f"lab-{uuid.uuid4().hex[:8]}")
    for key in (f"{app}/port", f"{app}-status/nodes/web-9", f"{app}-status/history/9/9"):
        await acl_consul.put(key, "1")
    async with AsyncExitStack() as stack:

        async def client(token: str) -> ConsulClient:
            return await stack.enter_async_context(ConsulClient(acl_consul.address, token=TokenSource(token)))

        manager = await client(acl_consul.token or "")
        for name in (app, AGENT_SERVICE):
            await register_service(manager, Service(f"{name}-web-9", name, 1, "http://127.0.0.1:1/", {}))
        yield FakeFleet(app, {role: await client(await acl_consul.create_token(policy(role, app))) for role in Role})


@pytest.mark.real
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("what", TABLE)
async def test_a_role_may_do_what_the_table_says_and_nothing_else(fake_fleet: FakeFleet, role: Role, what: str) -> None:
    """Under default deny, with the shipped policy alone."""
    attempt, allowed = TABLE[what]
    try:
        done = await attempt(Fixture(fake_fleet.clients[role], fake_fleet.app))
    except ConsulForbiddenError:
        done = False
    assert done == (role in allowed)


def test_every_policy_names_the_app_and_no_placeholder_is_left() -> None:
    """What goes to Consul is for one app."""
    for role in Role:
        rules = policy(role, parse_app("shop"))
        assert 'key_prefix "shop/"' in rules
        assert "{app}" not in rules
    assert policy_name(Role.READ_ONLY, parse_app("shop")) == "tidegate-shop-read-only"

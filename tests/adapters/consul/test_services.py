"""Services and sessions on a real server: what the local agent registers, checks and forgets."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import web

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import (
    CheckStatus,
    Instance,
    Service,
    agent_self,
    agent_service,
    app_service,
    deregister_service,
    fit_meta,
    health_service,
    register_service,
    set_maintenance,
)
from agent.adapters.consul.sessions import (
    SessionGoneError,
    SessionSpec,
    create_session,
    destroy_session,
    renew_session,
)
from agent.adapters.consul.transport import TokenSource
from agent.adapters.consul.wire import Op, TxnConflict, TxnDone, Verb
from agent.core.model.errors import ConsulForbiddenError
from agent.core.model.names import parse_app, parse_node
from cluster.servers.consul import consul_server
from tests.adapters.consul.real import RealConsul, real_running
from tests.adapters.consul.suite import new_app

NODE = parse_node("web-3.example")


def test_services_are_named_after_app_and_node() -> None:
    """Ids are unique per host, names are shared by the fleet."""
    app = app_service(parse_app("cs90"), NODE, 80, "http://127.0.0.1:80/health", {})
    agent = agent_service(NODE, 7390, "http://127.0.0.1:7390/healthz", {})
    assert (app.id, app.name) == ("cs90-web-3.example", "cs90")
    assert (agent.id, agent.name) == ("tidegate-agent-web-3.example", "tidegate-agent")


def test_meta_is_cut_to_what_consul_takes() -> None:
    """Nothing raises: pairs, keys and values are cut, characters replaced, UTF-8 kept whole."""
    meta = {"a b:c": "x", "consul-x": "y", "": "gone", "k" * 200: "z", "long": "é" * 300, "bad": "\ud800"}
    fitted = fit_meta(meta)
    assert fitted == {"a_b_c": "x", "x-consul-x": "y", "k" * 128: "z", "long": "é" * 256, "bad": "?"}
    assert len(fit_meta({f"k{number}": "" for number in range(100)})) == 64


@pytest.fixture(scope="module")
def shared() -> Iterator[RealConsul]:
    """One real server without ACLs."""
    with asyncio.Runner() as runner:
        context = consul_server()
        server = runner.run(context.__aenter__())
        try:
            yield RealConsul(server)
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.fixture
async def client(shared: RealConsul) -> AsyncIterator[ConsulClient]:
    """A client of the shared server."""
    async with ConsulClient(shared.url) as made:
        yield made


@pytest.fixture
async def health() -> AsyncIterator[str]:
    """The URL of something that answers 200."""
    app = web.Application()

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app.router.add_get("/health", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/health"
    finally:
        await runner.cleanup()


async def until(client: ConsulClient, name: str, status: CheckStatus | None) -> Instance | None:
    """Wait until the one instance of *name* has *status*; None: until there is no instance."""
    async with asyncio.timeout(15):
        while True:
            found = (await health_service(client, name)).instances
            if [instance.status for instance in found] == ([] if status is None else [status]):
                return found[0] if found else None
            await asyncio.sleep(0.05)


@pytest.mark.real
@pytest.mark.slow
class TestServices:
    async def test_a_service_lives_and_goes(self, client: ConsulClient, health: str) -> None:
        """Registered, found passing, put into maintenance and out, deregistered, twice."""
        service = app_service(new_app(), NODE, 8080, health, {"release": "abc", "v" * 200: "x" * 900})
        await register_service(client, service)
        instance = await until(client, service.name, CheckStatus.PASSING)
        assert instance is not None
        assert (instance.id, instance.port, instance.address) == (service.id, 8080, "127.0.0.1")
        assert instance.meta == {"release": "abc", "v" * 128: "x" * 512}
        await set_maintenance(client, service.id, enabled=True, reason="leaving & gone")
        await until(client, service.name, CheckStatus.MAINTENANCE)
        await set_maintenance(client, service.id, enabled=False)
        await until(client, service.name, CheckStatus.PASSING)
        await deregister_service(client, service.id)
        await until(client, service.name, None)
        await deregister_service(client, service.id)

    async def test_registering_again_keeps_the_check_and_renews_meta(self, client: ConsulClient, health: str) -> None:
        """A change of meta is no moment of ill health."""
        service = app_service(new_app(), NODE, 8080, health, {"release": "abc"})
        await register_service(client, service)
        await until(client, service.name, CheckStatus.PASSING)
        await register_service(client, Service(service.id, service.name, 8080, health, {"release": "def"}))
        for _ in range(10):
            (instance,) = (await health_service(client, service.name)).instances
            assert instance.status is CheckStatus.PASSING
            await asyncio.sleep(0.02)
        (instance,) = (await health_service(client, service.name)).instances
        assert instance.meta == {"release": "def"}
        await deregister_service(client, service.id)

    async def test_a_service_that_does_not_answer_is_critical(self, client: ConsulClient) -> None:
        """Unhealthy instances are listed, not left out; every meta Consul gets from us it takes."""
        meta = {f"consul-{number} ü": "ü" * 300 for number in range(70)}
        service = app_service(new_app(), NODE, 8080, "http://127.0.0.1:9/health", meta)
        await register_service(client, service)
        assert await until(client, service.name, CheckStatus.CRITICAL)
        await deregister_service(client, service.id)

    async def test_the_agent_names_itself(self, client: ConsulClient) -> None:
        """Version and node name, for the startup log."""
        me = await agent_self(client)
        assert me.version[0].isdigit()
        assert (me.consul_node, me.is_server) == ("lab", True)

    async def test_an_unknown_service_has_no_instances(self, client: ConsulClient) -> None:
        """Empty, with an index."""
        found = await health_service(client, "nobody")
        assert found.instances == ()
        assert found.index >= 1

    async def test_without_the_right_to_register_it_is_forbidden(self) -> None:
        """With ACLs, in default deny: also deregistering, and the list looks empty."""
        async with real_running(acl=True) as server:
            token = await server.grant({"cs90/": "read"})
            service = app_service(parse_app("cs90"), NODE, 80, "http://127.0.0.1:9/", {})
            async with ConsulClient(server.url, token=TokenSource(token)) as client:
                with pytest.raises(ConsulForbiddenError):
                    await register_service(client, service)
                with pytest.raises(ConsulForbiddenError):
                    await agent_self(client)
            async with ConsulClient(server.url, token=TokenSource(server.management_token)) as client:
                await register_service(client, service)
                assert await until(client, "cs90", CheckStatus.CRITICAL)
            async with ConsulClient(server.url, token=TokenSource(token)) as client:
                assert (await health_service(client, "cs90")).instances == ()
                with pytest.raises(ConsulForbiddenError):
                    await deregister_service(client, service.id)


@pytest.mark.real
@pytest.mark.slow
class TestSessions:
    async def test_a_lock_is_held_by_one_session(self, client: ConsulClient) -> None:
        """The second conflicts until the first is destroyed; without lock delay it follows at once."""
        key = f"{new_app()}-status/coordinator"
        first, second = [await create_session(client, SessionSpec("test")) for _ in range(2)]
        await renew_session(client, first)
        assert isinstance(await client.txn(Op(Verb.LOCK, key, b"1", session=first)), TxnDone)
        held = await client.get(key)
        assert held is not None
        assert held.session == first
        assert isinstance(await client.txn(Op(Verb.LOCK, key, b"2", session=second)), TxnConflict)
        assert isinstance(await client.txn(Op(Verb.CHECK_SESSION, key, session=first)), TxnDone)
        await destroy_session(client, first)
        assert isinstance(await client.txn(Op(Verb.CHECK_SESSION, key, session=first)), TxnConflict)
        assert isinstance(await client.txn(Op(Verb.LOCK, key, b"2", session=second)), TxnDone)
        assert isinstance(await client.txn(Op(Verb.UNLOCK, key, b"", session=second)), TxnDone)
        await destroy_session(client, second)

    async def test_a_session_that_is_gone_is_told(self, client: ConsulClient) -> None:
        """Renewing what was destroyed is an error of its own; destroying it again is not."""
        session = await create_session(client, SessionSpec("test"))
        await destroy_session(client, session)
        await destroy_session(client, session)
        with pytest.raises(SessionGoneError, match=session):
            await renew_session(client, session)

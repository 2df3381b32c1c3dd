"""One suite for the Docker adapter and its fake: the network, events, and a daemon that is away."""

import asyncio
from contextlib import aclosing

import pytest

from agent.core.model.errors import DockerRefusedError, DockerUnavailableError
from agent.core.model.names import NodeName
from tests.adapters.docker.rig import CRASH, AnyDocker, Bench, make_app, request

pytest_plugins = ["tests.adapters.docker.fixtures"]


async def test_the_network_is_made_once(bench: Bench) -> None:
    """Making the network again, also at the same time, changes nothing: there is one, with the app's subnet."""
    first, second = bench.adapter(), bench.adapter()
    await asyncio.gather(first.ensure_network(), second.ensure_network())
    await first.ensure_network()
    assert await bench.networks() == [bench.app.subnet]


async def test_a_network_of_another_subnet_is_refused(bench: Bench, adapter: AnyDocker) -> None:
    """The name is there with another subnet: the error names the setting."""
    changed = make_app(bench.app.name, bench.app.subnet.supernet(new_prefix=23))
    with pytest.raises(DockerRefusedError, match=rf"apps\.{bench.app.name}\.subnet: .* its subnet is"):
        await bench.adapter(changed).ensure_network()


async def test_a_taken_subnet_is_refused(bench: Bench, adapter: AnyDocker) -> None:
    """Another network has the subnet: the error names the setting."""
    clash = bench.app.model_copy(update={"network": f"{bench.app.name}-2"})
    with pytest.raises(DockerRefusedError, match=rf"apps\.{bench.app.name}\.subnet .*overlaps"):
        await bench.adapter(clash).ensure_network()


async def test_events_tell_of_own_containers_only(bench: Bench, adapter: AnyDocker) -> None:
    """The stream begins with the connection itself, then has what happens to our containers."""
    other = bench.adapter(node=NodeName("web-2"))
    async with asyncio.timeout(20), aclosing(adapter.events()) as events:
        assert await anext(events) == "connected"
        stranger = await other.run(request(bench, CRASH, occupancy=9))
        await other.remove(stranger)
        await adapter.run(request(bench, CRASH))
        assert [await anext(events) for _ in range(3)] == ["create", "start", "die"]


async def test_an_absent_daemon_is_unavailable(bench: Bench) -> None:
    """Every call says that the daemon is away; none takes it for an empty answer."""
    away = bench.adapter_of_nothing()
    for call in (away.containers(), away.ensure_network(), away.info(), away.local_digest(bench.reference)):
        with pytest.raises(DockerUnavailableError):
            await call
    with pytest.raises(DockerUnavailableError):
        await anext(away.events())


async def test_the_daemon_describes_itself(bench: Bench) -> None:
    """Version and platform are known."""
    info = await bench.adapter().info()
    assert (info.os, bool(info.version), bool(info.storage_driver)) == ("linux", True, True)

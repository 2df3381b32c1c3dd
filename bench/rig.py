"""The host that is measured: real servers, and the agent as a process of its own."""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from agent.core.model.states import SlotPhase
from cluster.scenarios.host import phase_of
from cluster.servers.consul import ConsulServer, consul_server
from cluster.servers.dockerd import docker_daemon
from cluster.servers.host import TEST_KNOBS, Host, Plan, host
from cluster.servers.images import Images
from cluster.servers.registry import registry

APP = f"bench-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class Rig:
    """A host that serves release a; b is pushed."""

    host: Host
    consul: ConsulServer
    a: str
    b: str

    async def put(self, key: str, image: str) -> None:
        """Write ``<app>/<key>/image``."""
        await self.consul.put(f"{APP}/{key}/image", image)

    async def until(self, image: str, phase: SlotPhase | None) -> None:
        """Wait until the host has *image* in *phase*; None: in no slot."""
        await self.host.until(lambda report: phase_of(report, image) is phase, deadline_s=60)


@asynccontextmanager
async def rig(knobs: Mapping[str, str], through: Callable[[str], str] = str) -> AsyncIterator[Rig]:
    """
    Make the servers and the host, and let it serve a.

    Args:
        knobs: beside those of the tests.
        through: given Consul's address, returns the one the agent shall use.
    """
    async with AsyncExitStack() as stack:
        docker = await stack.enter_async_context(docker_daemon())
        consul = await stack.enter_async_context(consul_server())
        store = await stack.enter_async_context(registry())
        images = Images(docker, store)
        stack.push_async_callback(images.forget)
        a, b = await images.testapp("a"), await images.testapp("b")
        settings = {"consul": {"address": through(consul.address)}}
        plan = Plan(APP, knobs={**TEST_KNOBS, **knobs}, settings=settings)
        made = await stack.enter_async_context(host(plan, docker, consul))
        await consul.put(f"{APP}/active/image", a)
        await made.start_agent()
        ready = Rig(made, consul, a, b)
        await ready.until(a, SlotPhase.SERVING)
        yield ready

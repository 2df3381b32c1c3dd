"""Images of the test app in its two variants, and hosts for one test each."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

import pytest_asyncio

from cluster.scenarios.host import Scenario
from cluster.servers.consul import ConsulServer
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.host import Host, Plan, host
from cluster.servers.images import Images


@dataclass(frozen=True, slots=True)
class PushedImages:
    """References of what was pushed: a ends its requests on SIGTERM, b dies at once; sick is never healthy."""

    a: str
    b: str
    sick: str
    exits: str


class MakeHost(Protocol):
    """Makes a further host for the running test."""

    async def __call__(self, plan: Plan) -> Host: ...


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="test_images")
async def _test_images(images: Images) -> PushedImages:
    return PushedImages(
        a=await images.testapp("a", exits="finish"),
        b=await images.testapp("b", exits="at-once"),
        sick=await images.testapp("sick", env={"UNHEALTHY": "1"}),
        exits=await images.testapp("exits", env={"EXIT_AFTER_MS": "300", "EXIT_CODE": "3"}),
    )


@pytest_asyncio.fixture(loop_scope="session", name="make_host")
async def _make_host(docker: DockerDaemon, consul: ConsulServer) -> AsyncIterator[MakeHost]:
    async with AsyncExitStack() as stack:

        async def make(plan: Plan) -> Host:
            return await stack.enter_async_context(host(plan, docker, consul))

        yield make


@pytest_asyncio.fixture(loop_scope="session", name="scenario")
async def _scenario(app_name: str, consul: ConsulServer, make_host: MakeHost, test_images: PushedImages) -> Scenario:
    """One host that serves release a."""
    one = await make_host(Plan(app_name))
    scenario = Scenario(app_name, consul, [one])
    await consul.put(f"{app_name}/active/image", test_images.a)
    await one.start_agent()
    await scenario.activate(test_images.a)
    return scenario

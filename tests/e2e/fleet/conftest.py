"""One fleet for all scenarios of a session: each begins with what serves, and leaves everybody alive."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio

from cluster.scenarios.fleet import FleetScenario
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.fleet import Fleet, FleetPlan, fleet
from cluster.servers.images import Images

NODES = ("web-1", "web-2", "web-3", "web-4", "web-5")
LATER = ("web-6", "web-7")
NEWER = "web-5"
"""The host whose agent reads records of the next version, too."""


@dataclass(frozen=True, slots=True)
class PushedImages:
    """References of what was pushed: a ends its requests on SIGTERM, b dies at once; sick is never healthy."""

    a: str
    b: str
    sick: str

    def other(self, version: str) -> str:
        """Return what is not *version*."""
        return self.b if version == "a" else self.a


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="test_images")
async def _test_images(images: Images) -> PushedImages:
    return PushedImages(
        a=await images.testapp("a", exits="finish"),
        b=await images.testapp("b", exits="at-once"),
        sick=await images.testapp("sick", env={"UNHEALTHY": "1"}),
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="running_fleet")
async def _running_fleet(docker: DockerDaemon, test_images: PushedImages) -> AsyncIterator[Fleet]:
    """Five hosts, three servers, three coordinators, and two hosts that may come later."""
    app = f"fleet-{uuid.uuid4().hex[:8]}"  # other tests may use the same Docker daemon
    async with fleet(FleetPlan(app, nodes=NODES, later=LATER), docker, image=test_images.a) as made:
        newer = made.hosts[NEWER]
        await newer.start_as("-m", "tests.e2e.fleet.newer_agent", str(newer.config))
        yield made


@pytest_asyncio.fixture(loop_scope="session", name="scenario")
async def _scenario(running_fleet: Fleet) -> FleetScenario:
    """The fleet at rest, whatever the scenario before did."""
    await running_fleet.mend()
    await FleetScenario(running_fleet, "").settled()
    return FleetScenario(running_fleet, await running_fleet.serving())

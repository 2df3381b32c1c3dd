"""One cluster for all tests of a process: each begins with what serves, on three hosts, all alive."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio

from cluster.cluster import Cluster, make
from cluster.scenarios.cluster import WEBS, ClusterStory, Shelf, at_rest
from cluster.servers.dockerd import DockerDaemon
from cluster.settings import AppPlan


@dataclass(frozen=True, slots=True)
class Town:
    """The cluster as it came up."""

    cluster: Cluster
    shelf: Shelf
    cold_start_s: float
    """From nothing but the machines' images to the first release served through the edge."""


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="town")
async def _town(docker: DockerDaemon) -> AsyncIterator[Town]:
    """Bring it up from nothing, and deploy the first release as an operator does."""
    cluster = await make(docker, f"tg-{uuid.uuid4().hex[:6]}", AppPlan())
    began_at = time.monotonic()
    try:
        await cluster.power_up(len(WEBS))
        async with asyncio.TaskGroup() as group:
            filled = group.create_task(_filled(cluster))
            group.create_task(cluster.furnish())
        shelf = filled.result()
        await ClusterStory(cluster, "").deploy(shelf.a)
        yield Town(cluster, shelf, time.monotonic() - began_at)
    finally:
        await cluster.down()


async def _filled(cluster: Cluster) -> Shelf:
    images = cluster.images()
    return Shelf(
        a=cluster.reference(await images.testapp("a")),
        b=cluster.reference(await images.testapp("b")),
        sick=cluster.reference(await images.testapp("sick", env={"UNHEALTHY": "1"})),
    )


@pytest_asyncio.fixture(loop_scope="session", name="story")
async def _story(town: Town) -> ClusterStory:
    """The cluster at rest, whatever the test before did."""
    return await at_rest(town.cluster)


@pytest_asyncio.fixture(loop_scope="session", name="shelf")
async def _shelf(town: Town) -> Shelf:
    return town.shelf

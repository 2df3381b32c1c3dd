"""One cluster for all tests of a process: each begins with what serves, on three hosts, all alive."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio

from cluster.cluster import Cluster, make
from cluster.scenarios.cluster import WEBS, ClusterScenario, PushedImages, at_rest
from cluster.servers.dockerd import DockerDaemon
from cluster.settings import AppPlan


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """The cluster as it came up."""

    cluster: Cluster
    test_images: PushedImages
    cold_start_s: float
    """From nothing but the machines' images to the first release served through the edge."""


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="running_cluster")
async def _running_cluster(docker: DockerDaemon) -> AsyncIterator[RunningCluster]:
    """Bring it up from nothing, and deploy the first release as an operator does."""
    cluster = await make(docker, f"tg-{uuid.uuid4().hex[:6]}", AppPlan())
    began_at = time.monotonic()
    try:
        await cluster.power_up(len(WEBS))
        async with asyncio.TaskGroup() as group:
            filled = group.create_task(_filled(cluster))
            group.create_task(cluster.furnish())
        test_images = filled.result()
        await ClusterScenario(cluster, "").deploy(test_images.a)
        yield RunningCluster(cluster, test_images, time.monotonic() - began_at)
    finally:
        await cluster.down()


async def _filled(cluster: Cluster) -> PushedImages:
    images = cluster.images()
    return PushedImages(
        a=cluster.reference(await images.testapp("a")),
        b=cluster.reference(await images.testapp("b")),
        sick=cluster.reference(await images.testapp("sick", env={"UNHEALTHY": "1"})),
    )


@pytest_asyncio.fixture(loop_scope="session", name="scenario")
async def _scenario(running_cluster: RunningCluster) -> ClusterScenario:
    """The cluster at rest, whatever the test before did."""
    return await at_rest(running_cluster.cluster)


@pytest_asyncio.fixture(loop_scope="session", name="test_images")
async def _test_images(running_cluster: RunningCluster) -> PushedImages:
    return running_cluster.test_images

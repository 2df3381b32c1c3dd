"""Fixtures of the Docker contract suites; a suite asks for them by ``pytest_plugins``."""

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agent.core.model.names import parse_digest, parse_reference
from cluster.servers.dockerd import DockerDaemon
from tests.adapters.docker.rig import AnyDocker, Bench, FakeBench, RealBench, RealImage, build, make_app


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="real_image")
async def _real_image(docker: DockerDaemon) -> AsyncIterator[RealImage]:
    """An image of busybox alone."""
    tag = f"tidegate-contract-{uuid.uuid4().hex[:8]}:1"
    digest = parse_digest(await build(docker, tag, "ENV FROM_IMAGE=public"))
    yield RealImage(docker, parse_reference(tag), digest)
    await docker.cli("rmi", tag)


@pytest.fixture(name="image", params=["fake", pytest.param("real", marks=pytest.mark.real)])
def _image(request: pytest.FixtureRequest) -> RealImage | None:
    """None for the fake."""
    found: RealImage | None = request.getfixturevalue("real_image") if request.param == "real" else None
    return found


@pytest_asyncio.fixture(name="bench")
async def _bench(image: RealImage | None) -> AsyncIterator[Bench]:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    if image is None:
        yield FakeBench(name)
        return
    bench = RealBench(image, make_app(name, await image.docker.free_subnet()))
    try:
        yield bench
    finally:
        await bench.clean()


@pytest_asyncio.fixture(name="adapter")
async def _adapter(bench: Bench) -> AnyDocker:
    """An adapter whose network exists."""
    adapter = bench.adapter()
    await adapter.ensure_network()
    return adapter

"""
Real servers as fixtures; a server that cannot be had fails the tests that need it, with the reason.

Those of the session are shared: a test takes an `app_name` of its own there, and a server of its own
(`cluster.servers`) to kill, freeze or fill one.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import settings

from cluster.servers.consul import ConsulServer, consul_server
from cluster.servers.dockerd import DockerDaemon, docker_daemon
from cluster.servers.images import Images
from cluster.servers.ports import free_port
from cluster.servers.registry import Registry, registry

# The same examples at each run, so that a change is judged by what it changes; `make test-all` draws new ones.
settings.register_profile("steady", derandomize=True)
settings.register_profile("random", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="docker")
async def _docker() -> AsyncIterator[DockerDaemon]:
    """The Docker daemon: the one that runs, else one for this session."""
    async with docker_daemon() as daemon:
        yield daemon


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="consul")
async def _consul() -> AsyncIterator[ConsulServer]:
    """A Consul server that all tests of the session share."""
    async with consul_server() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="acl_consul")
async def _acl_consul() -> AsyncIterator[ConsulServer]:
    """A shared Consul server that denies by default; `token` may do everything."""
    async with consul_server(acl=True) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="function", name="own_consul")
async def _own_consul() -> AsyncIterator[ConsulServer]:
    """A Consul server of the test's own, to kill or to freeze."""
    async with consul_server() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="registry")
async def _registry() -> AsyncIterator[Registry]:
    """An image registry that all tests of the session share."""
    async with registry() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session", name="images")
async def _images(docker: DockerDaemon, registry: Registry) -> AsyncIterator[Images]:
    """Builds and pushes images; what was pulled of them is removed at the end of the session."""
    images = Images(docker, registry)
    yield images
    await images.forget()


@pytest.fixture(name="app_name")
def _app_name() -> str:
    """An app name (and key prefix) that no other test uses."""
    return f"lab-{uuid.uuid4().hex[:8]}"


@pytest.fixture(name="port")
def _port() -> int:
    """A free loopback port."""
    return free_port()


@pytest.fixture(name="haproxy_dir")
def _haproxy_dir() -> Iterator[Path]:
    """A directory with a path short enough for Unix sockets (pytest's tmp_path may not be)."""
    directory = Path(tempfile.mkdtemp(prefix="tg-"))
    yield directory
    shutil.rmtree(directory)

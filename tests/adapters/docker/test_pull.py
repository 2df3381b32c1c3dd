"""Pulling for real: registries that have the image, refuse it, are away, ask for a login, or stop in mid-layer."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import pytest_asyncio

from agent.adapters.docker.adapter import DockerAdapter
from agent.adapters.docker.pull import PullProgress
from agent.core.model.errors import DockerRefusedError, DockerUnavailableError, ImagePullError, ImageRefusedError
from agent.core.model.names import Digest, ImageReference, NodeName, parse_digest, parse_reference
from agent.runtime.host.images import prune_image, pull_image
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.ports import free_port
from cluster.servers.registry import Login, Registry, registry
from cluster.servers.stalling_proxy import StallingProxy
from tests.adapters.docker.rig import build, make_app

pytestmark = pytest.mark.real
STALL_S = 20.0


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image that only the registry has."""

    reference: ImageReference
    digest: Digest

    @property
    def pinned(self) -> ImageReference:
        return parse_reference(f"{self.reference.rpartition(':')[0]}@{self.digest}")

    def at(self, address: str) -> ImageReference:
        """Return the same image by way of another address."""
        return parse_reference(f"{address}/{self.reference.partition('/')[2]}")


async def push(docker: DockerDaemon, server: Registry, *, payload: bytes = b"", flags: Sequence[str] = ()) -> Pushed:
    """Push a new image; *payload* is one of its layers, *flags* are for its build."""
    reference = f"{server.address}/pull-{uuid.uuid4().hex[:8]}:1"
    await build(docker, reference, payload=payload or uuid.uuid4().bytes, flags=flags)
    await docker.cli("--config", str(server.docker_config), "push", "-q", reference, timeout_s=60)
    digests = await docker.cli("image", "inspect", "-f", "{{index .RepoDigests 0}}", reference)
    await docker.cli("rmi", reference)
    return Pushed(parse_reference(reference), parse_digest(digests.strip().partition("@")[2]))


@asynccontextmanager
async def opened(docker: DockerDaemon, credentials: Path) -> AsyncIterator[DockerAdapter]:
    app = make_app("pull", IPv4Network("172.29.1.0/24"))
    async with DockerAdapter(docker.host, app, NodeName("web-1"), credentials) as adapter:
        yield adapter


@pytest_asyncio.fixture(name="adapter")
async def _adapter(docker: DockerDaemon, tmp_path: Path) -> AsyncIterator[DockerAdapter]:
    """An adapter without credentials."""
    async with opened(docker, tmp_path / "none.json") as adapter:
        yield adapter


@pytest_asyncio.fixture(name="pushed")
async def _pushed(docker: DockerDaemon, registry: Registry) -> AsyncIterator[Pushed]:
    """A small image in the shared registry; what was pulled of it is removed."""
    image = await push(docker, registry)
    yield image
    await forget(docker, image.reference)


async def forget(docker: DockerDaemon, reference: ImageReference) -> None:
    name = reference.rpartition(":")[0]
    if found := (await docker.cli("images", "-q", "--no-trunc", "--filter", f"reference={name}")).split():
        await docker.cli("rmi", "-f", *sorted(set(found)))


async def test_a_tag_is_pulled_to_the_registrys_digest(adapter: DockerAdapter, pushed: Pushed) -> None:
    """The digest is that of the manifest in the registry, and the image is here then."""
    progress = PullProgress()
    assert await adapter.local_digest(pushed.reference) is None
    assert await adapter.pull(pushed.reference, progress, STALL_S) == pushed.digest
    assert await adapter.local_digest(pushed.reference) == pushed.digest
    assert progress.percent == 100
    assert any(pushed.reference in image.references for image in await adapter.images())


async def test_a_pinned_image_is_pulled_once(docker: DockerDaemon, adapter: DockerAdapter, tmp_path: Path) -> None:
    """A digest that is here needs no registry any more; a tag always does."""
    async with registry() as server:
        image = await push(docker, server)
        assert await adapter.pull(image.pinned, PullProgress(), STALL_S) == image.digest
        assert await adapter.pull(image.reference, PullProgress(), STALL_S) == image.digest
    try:
        assert await adapter.pull(image.pinned, PullProgress(), STALL_S) == image.digest
        with pytest.raises(ImagePullError, match="connection refused"):
            await adapter.pull(image.reference, PullProgress(), STALL_S)
        assert await adapter.local_digest(image.reference) == image.digest
    finally:
        await forget(docker, image.reference)


async def test_a_tag_with_a_digest_means_the_digest(adapter: DockerAdapter, pushed: Pushed) -> None:
    """In ``name:tag@digest`` the tag is for people."""
    both = parse_reference(f"{pushed.reference}@{pushed.digest}")
    assert await adapter.pull(both, PullProgress(), STALL_S) == pushed.digest


async def test_an_unknown_tag_is_refused(adapter: DockerAdapter, pushed: Pushed) -> None:
    """The registry has the name but not the tag: final, in the registry's words."""
    with pytest.raises(ImageRefusedError, match="manifest unknown"):
        await adapter.pull(parse_reference(f"{pushed.reference}-typo"), PullProgress(), STALL_S)


async def test_an_unknown_digest_is_refused(adapter: DockerAdapter, pushed: Pushed) -> None:
    """A digest that nobody pushed is final."""
    wrong = parse_reference(pushed.pinned.partition("@")[0] + "@sha256:" + "0" * 64)
    with pytest.raises(ImageRefusedError, match="manifest unknown"):
        await adapter.pull(wrong, PullProgress(), STALL_S)


async def test_a_registry_that_is_away_may_come_back(adapter: DockerAdapter) -> None:
    """Nobody listens there: transient, whatever the image is called."""
    away = parse_reference(f"127.0.0.1:{free_port()}/unauthorized/not-found:denied")
    with pytest.raises(ImagePullError, match="connection refused"):
        await adapter.pull(away, PullProgress(), STALL_S)


async def test_a_registry_asks_for_a_login(docker: DockerDaemon, adapter: DockerAdapter, tmp_path: Path) -> None:
    """Refused without credentials or with wrong ones; pulled with those of the Docker configuration file."""
    async with registry(Login("ci", "correct-horse")) as server:
        image = await push(docker, server)
        with pytest.raises(ImageRefusedError, match="no basic auth credentials"):
            await adapter.pull(image.reference, PullProgress(), STALL_S)
        good = server.docker_config / "config.json"
        async with opened(docker, good) as with_login:
            assert await with_login.pull(image.reference, PullProgress(), STALL_S) == image.digest
        wrong = tmp_path / "wrong.json"
        wrong.write_text(f'{{"auths": {{"{server.address}": {{"auth": "Y2k6d3Jvbmc="}}}}}}')
        async with opened(docker, wrong) as with_wrong:
            with pytest.raises(ImageRefusedError, match="unauthorized") as caught:
                await with_wrong.pull(image.reference, PullProgress(), STALL_S)
        assert "wrong" not in str(caught.value).replace(str(wrong), "")
        await forget(docker, image.reference)


async def test_a_credential_helper_is_asked_at_each_pull(
    docker: DockerDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``credHelpers`` names a program; what it answers now counts, not what it said before."""
    helper = tmp_path / "docker-credential-lab"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    async with registry(Login("ci", "correct-horse")) as server:
        image = await push(docker, server)
        config = tmp_path / "config.json"
        config.write_text(f'{{"credHelpers": {{"{server.address}": "lab"}}}}')
        async with opened(docker, config) as adapter:
            for password, works in (("expired", False), ("correct-horse", True)):
                helper.write_text(
                    f'#!/bin/sh\nread host\n[ "$host" = "{server.address}" ] || exit 1\n'
                    f'echo \'{{"Username": "ci", "Secret": "{password}"}}\'\n'
                )
                helper.chmod(0o755)
                if works:
                    assert await adapter.pull(image.reference, PullProgress(), STALL_S) == image.digest
                    continue
                with pytest.raises(ImageRefusedError, match="unauthorized"):
                    await adapter.pull(image.reference, PullProgress(), STALL_S)
        await forget(docker, image.reference)


async def test_a_pull_that_stops_in_mid_layer_is_noticed(
    docker: DockerDaemon, adapter: DockerAdapter, registry: Registry
) -> None:
    """No byte for the stall time ends the pull, and says how far it was; the daemon gives up too."""
    image = await push(docker, registry, payload=os.urandom(6 * 1024**2))
    stalling_proxy = StallingProxy(registry.port, 3 * 1024**2)
    progress = PullProgress()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        proxy = group.create_task(stalling_proxy.serve())
        reference = image.at(f"127.0.0.1:{stalling_proxy.port}")
        with pytest.raises(ImagePullError, match=r"stalled for 1\.5s at \d\d %"):
            await adapter.pull(reference, progress, 1.5)
        proxy.cancel()
    assert progress.percent is not None
    assert 5 < progress.percent < 95
    assert await adapter.local_digest(reference) is None


async def test_a_cancelled_pull_ends(docker: DockerDaemon, adapter: DockerAdapter, registry: Registry) -> None:
    """Cancelling is prompt, and the adapter goes on working."""
    image = await push(docker, registry, payload=os.urandom(6 * 1024**2))
    stalling_proxy = StallingProxy(registry.port, 3 * 1024**2)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        proxy = group.create_task(stalling_proxy.serve())
        reference = image.at(f"127.0.0.1:{stalling_proxy.port}")
        pull = group.create_task(adapter.pull(reference, PullProgress(), 60))
        await stalling_proxy.is_dry.wait()
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        proxy.cancel()
    assert (await adapter.containers()).containers == ()


async def test_another_architecture_is_refused(
    docker: DockerDaemon, adapter: DockerAdapter, registry: Registry
) -> None:
    """An image that this host cannot run is refused before anything is started."""
    image = await push(docker, registry, flags=("--platform=linux/s390x",))
    try:
        with pytest.raises(ImageRefusedError, match="image is for s390x, this host is"):
            await adapter.pull(image.reference, PullProgress(), STALL_S)
    finally:
        await forget(docker, image.reference)


async def test_an_old_image_is_removed_unless_another_tool_names_or_uses_it(
    docker: DockerDaemon, adapter: DockerAdapter, pushed: Pushed
) -> None:
    """What others need stays: their name on it, or their container, for which Docker refuses."""
    theirs = f"another-tool-{uuid.uuid4().hex[:8]}:1"

    async def names() -> set[str]:
        return {name for image in await adapter.images() for name in image.references}

    assert (await pull_image(adapter, pushed.reference, PullProgress(), STALL_S)).is_new
    await docker.cli("tag", pushed.reference, theirs)
    for _ in range(2):
        await prune_image(adapter, pushed.reference, pushed.digest)
        assert theirs in await names()
        assert pushed.reference not in await names()
    assert not (await pull_image(adapter, pushed.reference, PullProgress(), STALL_S)).is_new
    await docker.cli("rmi", theirs)
    used_by = (await docker.cli("create", pushed.reference, "sh")).strip()
    with pytest.raises(DockerRefusedError, match="is using"):
        await prune_image(adapter, pushed.reference, pushed.digest)
    await docker.cli("rm", used_by)
    await prune_image(adapter, pushed.reference, pushed.digest)
    assert await adapter.local_digest(pushed.reference) is None


async def test_a_pull_without_a_daemon_is_unavailable(tmp_path: Path) -> None:
    """The daemon is away, not the registry."""
    app = make_app("pull", IPv4Network("172.29.1.0/24"))
    async with DockerAdapter(f"unix://{tmp_path}/none.sock", app, NodeName("web-1"), tmp_path / "none") as adapter:
        with pytest.raises(DockerUnavailableError):
            await adapter.pull(parse_reference("127.0.0.1:1/a:1"), PullProgress(), STALL_S)

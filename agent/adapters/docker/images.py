"""Images on the host and from the registry: pull with progress, find, list, remove."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp

from agent.adapters.docker.errors import deadline
from agent.adapters.docker.inspect import DaemonInfo, Image, image, platform_mismatch
from agent.adapters.docker.pull import PullProgress, pull_error, stalled
from agent.adapters.docker.stream import json_lines
from agent.adapters.registry.credentials import encoded, registry_auth
from agent.adapters.registry.reference import matching_digests, pinned_digest, pull_name, repository
from agent.core.model.errors import DockerRefusedError, DockerUnavailableError, ImageRefusedError
from agent.core.model.names import Digest, ImageReference, parse_digest

QUICK_S = 10.0
REMOVE_S = 60.0


class Images:
    """
    The daemon's image store; part of the adapter, which owns the connection.

    Args:
        docker: the open client.
        socket: the daemon's socket, for the streams' own connections.
        credentials: the Docker configuration file with the registry logins.
    """

    def __init__(self, docker: aiodocker.Docker, socket: str, credentials: Path) -> None:
        self._docker = docker
        self._socket = socket
        self._credentials = credentials

    async def pull(self, reference: ImageReference, progress: PullProgress, stall_s: float) -> Digest:
        """See :meth:`agent.adapters.docker.adapter.DockerAdapter.pull`."""
        pinned = pinned_digest(reference)
        shown = await self._inspect(pull_name(reference)) if pinned else None
        if shown is None:
            await self._pull(reference, progress, stall_s)
            shown = await self._pulled(reference, progress.digest)
        if why := platform_mismatch(shown, await self.info()):
            raise ImageRefusedError(f"{reference}: {why}")
        digests = matching_digests(reference, tuple(shown.get("RepoDigests") or ()))
        for wanted in (pinned, progress.digest):
            if wanted in digests:
                return parse_digest(wanted)
        return digests[0] if digests else parse_digest(shown["Id"])

    async def local_digest(self, reference: ImageReference) -> Digest | None:
        """See :meth:`agent.adapters.docker.adapter.DockerAdapter.local_digest`."""
        shown = await self._inspect(pull_name(reference))
        if shown is None:
            return None
        digests = matching_digests(reference, tuple(shown.get("RepoDigests") or ()))
        return pinned_digest(reference) or (digests[0] if digests else parse_digest(shown["Id"]))

    async def runnable(self, reference: ImageReference, digest: Digest) -> Mapping[str, Any]:
        """
        Find the image of a release.

        Returns: its inspect document, with the name to run it by under ``Name``: never a tag.

        Raises:
            DockerRefusedError: it is not on this host.
        """
        for name in (f"{repository(reference)}@{digest}", digest):
            if shown := await self._inspect(name):
                return {**shown, "Name": name}
        raise DockerRefusedError(f"Docker: image {reference} ({digest}) is not on this host")

    async def list(self) -> tuple[Image, ...]:
        """Return all images on the host, also those that are not ours."""
        async with deadline("list images", QUICK_S):
            return tuple(image(entry) for entry in await self._docker.images.list(digests=True))

    async def remove(self, name: str) -> None:
        """Remove an image by id or reference; one that is gone is fine, one in use is refused."""
        async with deadline(f"remove image {name}", REMOVE_S):
            try:
                await self._docker.images.delete(name)
            except aiodocker.DockerError as exc:
                if exc.status != 404:
                    raise

    async def info(self) -> DaemonInfo:
        """See :meth:`agent.adapters.docker.adapter.DockerAdapter.info`."""
        async with deadline("info", QUICK_S):
            version, info = await self._docker.version(), await self._docker.system.info()
        return DaemonInfo(
            version=version["Version"],
            api_version=version["ApiVersion"],
            storage_driver=info["Driver"],
            live_restore=bool(info["LiveRestoreEnabled"]),
            os=version["Os"],
            architecture=version["Arch"],
        )

    async def _inspect(self, name: str) -> Mapping[str, Any] | None:
        async with deadline(f"inspect image {name}", QUICK_S):
            try:
                return await self._docker.images.inspect(name)
            except aiodocker.DockerError as exc:
                if exc.status != 404:
                    raise
                return None

    async def _pulled(self, reference: ImageReference, digest: str) -> Mapping[str, Any]:
        # By digest first: the tag may have been moved by another pull since.
        names = (f"{repository(reference)}@{digest}", pull_name(reference)) if digest else (pull_name(reference),)
        for name in names:
            if shown := await self._inspect(name):
                return shown
        raise DockerUnavailableError(
            f"Docker: {reference} was pulled, but is not listed; another program may remove images on this host"
        )

    async def _pull(self, reference: ImageReference, progress: PullProgress, stall_s: float) -> None:
        registry = repository(reference).registry
        auth = await registry_auth(self._credentials, registry)
        headers = {"X-Registry-Auth": encoded(auth, registry)} if auth else None
        params = {"fromImage": pull_name(reference)}
        now = asyncio.get_running_loop().time
        try:
            async with (
                asyncio.timeout(stall_s) as limit,
                json_lines(self._socket, "POST", "images/create", params=params, headers=headers) as lines,
            ):
                async for event in lines:
                    if progress.feed(event):
                        limit.reschedule(now() + stall_s)
        except TimeoutError as exc:
            raise stalled(reference, progress, stall_s) from exc
        except aiodocker.DockerError as exc:
            raise pull_error(reference, exc.message) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise DockerUnavailableError(f"Docker: pull of {reference}: {str(exc) or type(exc).__name__}") from exc
        if not progress.is_finished:
            raise DockerUnavailableError(f"Docker: pull of {reference} ended without a result")

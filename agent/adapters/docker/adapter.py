"""
Docker as one app on one host needs it: its network, images and containers, found again by label.

Restarts nothing and decides nothing by itself; every call has a deadline, and calling twice does no harm.
Two adapters on one daemon do not see each other's containers as long as node or app differ.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiodocker
import aiohttp

from agent.adapters.docker.container_config import (
    RunRequest,
    container_config,
    container_name,
    labels_filter,
    read_env_files,
)
from agent.adapters.docker.errors import NO_CONNECTION, address_taken, deadline, hide
from agent.adapters.docker.images import Images
from agent.adapters.docker.inspect import DaemonInfo, Image, Listing, container, env_values, last_lines, plain
from agent.adapters.docker.network import ensure_network
from agent.adapters.docker.pull import PullProgress
from agent.adapters.docker.stream import json_lines
from agent.core.host.observed import Container
from agent.core.model.app import App
from agent.core.model.errors import DockerRefusedError, DockerUnavailableError, TidegateError
from agent.core.model.names import ContainerId, Digest, ImageReference, NodeName

QUICK_S = 10.0
"""Deadline of calls that only read or touch metadata, in seconds."""
SLOW_S = 60.0
"""Deadline of calls that create, start or remove, in seconds."""
_EVENTS = ("create", "start", "die", "oom", "destroy", "pause", "unpause", "restart")


class DockerAdapter:
    """
    One app's view of the Docker daemon; an async context manager, made inside the event loop.

    Args:
        socket: ``unix:///path`` of the daemon's socket.
        app: network, addresses, name.
        node: this host's name.
        credentials: the Docker configuration file with the registry logins; by default the user's own.
    """

    def __init__(self, socket: str, app: App, node: NodeName, credentials: Path | None = None) -> None:
        self._socket = socket
        self._app = app
        self._node = node
        self._docker = aiodocker.Docker(url=socket)
        self._images = Images(self._docker, socket, credentials or Path.home() / ".docker" / "config.json")
        self._filters = {"label": list(labels_filter(app, node))}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; containers are left alone."""
        await self._docker.close()

    async def info(self) -> DaemonInfo:
        """Return what the daemon says of itself."""
        return await self._images.info()

    async def ensure_network(self) -> None:
        """
        Create the app's network with its subnet if it is missing. Idempotent.

        Raises:
            DockerRefusedError: its name or subnet is taken otherwise; names the setting.
        """
        await ensure_network(self._docker, self._app)

    async def pull(self, reference: ImageReference, progress: PullProgress, stall_s: float) -> Digest:
        """
        Pull an image; one pinned by digest that is there needs no registry. Cancelling it ends the daemon's work.

        Args:
            reference: by tag, digest or neither (``latest``).
            progress: a fresh one; it is fed, and may be read meanwhile.
            stall_s: seconds without any progress after which it fails.

        Returns: digest of the top manifest the registry names, else the image id.

        Raises:
            ImageRefusedError: unknown, not permitted, or not for this host's architecture.
            ImagePullError: the registry is away, or nothing moved for *stall_s*.
            DockerUnavailableError: the daemon is away.
        """
        return await self._images.pull(reference, progress, stall_s)

    async def local_digest(self, reference: ImageReference) -> Digest | None:
        """Return the digest *reference* has on this host without asking a registry; None when it is not here."""
        return await self._images.local_digest(reference)

    async def images(self) -> tuple[Image, ...]:
        """Return all images on the host, also those that are not ours."""
        return await self._images.list()

    async def remove_image(self, name: str) -> None:
        """
        Remove an image by id or reference. Idempotent.

        Raises:
            DockerRefusedError: a container uses it.
        """
        await self._images.remove(name)

    async def containers(self) -> Listing:
        """Return all of this app's containers on this node, running or not, oldest occupancy first."""
        async with deadline("list containers", QUICK_S):
            found = await self._docker.containers.list(all=True, filters=self._filters)
        containers: list[Container] = []
        strays: list[ContainerId] = []
        for entry in found:
            shown = await self._inspect(entry.id)
            if shown is None:
                continue  # removed since it was listed
            try:
                containers.append(container(shown))
            except ValueError:
                strays.append(ContainerId(entry.id))
        return Listing(tuple(sorted(containers, key=lambda each: each.occupancy)), tuple(sorted(strays)))

    async def run(self, request: RunRequest) -> ContainerId:
        """
        Create and start a container on its slot's address; the image must be on the host, the network exist.

        Cancelled or dead in the middle, it leaves a container that :meth:`containers` shows.

        Raises:
            PermanentError: an env file is missing or malformed.
            DockerRefusedError: the daemon refused it; nothing is left behind. Secret values are not in the text.
            AddressTakenError: the same, because another container has the slot's address.
            DockerUnavailableError: the daemon is away or slow; the container may exist.
        """
        release = request.release
        async with deadline("read env files", QUICK_S):
            file_env = await asyncio.to_thread(read_env_files, release.spec.env_files)
        found = await self._images.runnable(release.reference, release.digest)
        config = container_config(self._app, self._node, request, image=found["Name"], file_env=file_env)
        secrets = (*file_env.values(), *(secret.get_secret_value() for secret in release.spec.env.values()))
        name = container_name(self._app, self._node, request)
        async with deadline(f"create {name}", SLOW_S):
            try:
                created = ContainerId((await self._docker.containers.create(config, name=name)).id)
            except aiodocker.DockerError as exc:
                # The cause may quote the environment: it is not chained.
                raise _refusal(f"create {name}", exc, secrets) from None
        try:
            await self._start(created, f"start {name}", secrets)
        except DockerRefusedError as exc:
            with suppress(DockerRefusedError, DockerUnavailableError):
                await self.remove(created)
            if (taken := address_taken(self._app, request.slot, exc)) is not None:
                raise taken from exc
            raise
        return created

    async def start(self, id_: ContainerId) -> None:
        """
        Start a stopped container again, as it was created: same address, occupancy and environment. Idempotent.

        Raises:
            DockerRefusedError: the daemon refused it, or it is gone.
        """
        secrets = await self._secrets(await self._inspect(id_))
        await self._start(id_, f"start {id_[:12]}", secrets)

    async def stop(self, id_: ContainerId, grace_s: float) -> None:
        """
        Send the container's stop signal, and SIGKILL after *grace_s* seconds; return when it has ended. Idempotent.

        Raises:
            DockerUnavailableError: also when it has not ended half a minute after the grace.
        """
        async with deadline(f"stop {id_[:12]}", grace_s + SLOW_S / 2):
            try:
                await self._docker.containers.container(id_).stop(t=math.ceil(grace_s))
            except aiodocker.DockerError as exc:
                if exc.status != 404:
                    raise

    async def remove(self, id_: ContainerId) -> None:
        """Remove a container and its anonymous volumes, killing it if it runs. Idempotent."""
        async with deadline(f"remove {id_[:12]}", SLOW_S):
            try:
                await self._docker.containers.container(id_).delete(force=True, v=True)
            except aiodocker.DockerError as exc:
                if exc.status != 404 and "already in progress" not in exc.message:
                    raise

    async def tail(self, id_: ContainerId, lines: int = 20, max_bytes: int = 4096) -> tuple[str, ...]:
        """
        Return the last lines of a container's log, without control characters and secret environment values.

        Args:
            id_: the container.
            lines: how many at most.
            max_bytes: of UTF-8 in all; the oldest go first.

        Returns: nothing for a container that is gone; the daemon's words where its logs cannot be read.
        """
        shown = await self._inspect(id_)
        if shown is None:
            return ()
        secrets = await self._secrets(shown)
        try:
            async with deadline(f"logs of {id_[:12]}", QUICK_S):
                parts = await self._docker.containers.container(id_).log(stdout=True, stderr=True, tail=lines)
        except TidegateError as exc:
            return (plain(hide(str(exc), secrets)),)
        return last_lines(hide("".join(parts), secrets), lines, max_bytes)

    async def events(self) -> AsyncGenerator[str, None]:
        """
        Yield ``connected``, then the action of each event of our containers; never ends by itself.

        Raises:
            DockerUnavailableError: the connection cannot be made, or was lost.
        """
        filters = json.dumps({**self._filters, "type": ["container"], "event": list(_EVENTS)})
        async with AsyncExitStack() as stack:
            async with deadline("events", QUICK_S):
                stream = json_lines(self._socket, "GET", "events", params={"filters": filters})
                lines = await stack.enter_async_context(stream)
            yield "connected"
            try:
                async for event in lines:
                    yield str(event.get("Action", ""))
            except (aiohttp.ClientError, aiodocker.DockerError, OSError) as exc:
                raise DockerUnavailableError(f"Docker: events: {str(exc) or type(exc).__name__}") from exc
        raise DockerUnavailableError("Docker: the event stream ended")

    async def _start(self, id_: ContainerId, what: str, secrets: Iterable[str]) -> None:
        async with deadline(what, SLOW_S):
            try:
                await self._docker.containers.container(id_).start()
            except aiodocker.DockerError as exc:
                raise _refusal(what, exc, secrets) from None

    async def _inspect(self, id_: str) -> dict[str, Any] | None:
        async with deadline(f"inspect {id_[:12]}", QUICK_S):
            try:
                return await self._docker.containers.container(id_).show()
            except aiodocker.DockerError as exc:
                if exc.status != 404:
                    raise
                return None

    async def _secrets(self, shown: dict[str, Any] | None) -> frozenset[str]:
        if shown is None:
            return frozenset()
        async with deadline("inspect image", QUICK_S):
            try:
                public = ((await self._docker.images.inspect(shown["Image"])).get("Config") or {}).get("Env")
            except aiodocker.DockerError as exc:
                if exc.status != 404:
                    raise
                public = None
        return env_values(shown["Config"]["Env"]) - env_values(public)


def _refusal(what: str, exc: aiodocker.DockerError, secrets: Iterable[str]) -> TidegateError:
    """Any answer to create and start is about this container, 5xx included; only silence may pass."""
    is_away = exc.status in (NO_CONNECTION, 503)
    return (DockerUnavailableError if is_away else DockerRefusedError)(f"Docker: {what}: {hide(exc.message, secrets)}")

"""
An in-memory Docker with the interface of :class:`agent.adapters.docker.adapter.DockerAdapter`.

Held to the real one by tests/adapters/docker/test_contract.py: what differs there is a bug here.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from agent.adapters.docker.container_config import (
    RunRequest,
    container_config,
    container_name,
    labels_filter,
    read_env_files,
)
from agent.adapters.docker.errors import address_taken, hide
from agent.adapters.docker.inspect import DaemonInfo, Image, Listing, container, last_lines
from agent.adapters.docker.pull import PullProgress, stalled
from agent.adapters.registry.reference import pinned_digest, pull_name, repository
from agent.core.host.observed import Container
from agent.core.model.app import App
from agent.core.model.errors import DockerRefusedError, DockerUnavailableError, ImagePullError, ImageRefusedError
from agent.core.model.names import ContainerId, Digest, ImageReference, NodeName
from agent.core.model.spec import LABEL_PREFIX


@dataclass(frozen=True, slots=True)
class Program:
    """How a command behaves in the fake; by default it runs until it is stopped."""

    command: tuple[str, ...] | None
    lines: tuple[str, ...] = ()
    """What it prints; ``{NAME}`` stands for an environment variable."""
    exit_code: int | None = None
    """Ends at once with this code."""
    exit_variable: str = ""
    """Ends at once with the code in this environment variable."""
    ignores_term: bool = False
    is_missing: bool = False


@dataclass(slots=True)
class FakeContainer:
    """A container in the fake daemon."""

    id: ContainerId
    name: str
    labels: dict[str, str]
    program: Program
    env: dict[str, str]
    network: str
    address: IPv4Address | None
    status: str = "created"
    exit_code: int = 0
    starts: int = 0
    output: list[str] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        """Return what matters of Docker's inspect document."""
        started = f"start-{self.starts}" if self.starts else "0001-01-01T00:00:00Z"
        state = {"Status": self.status, "ExitCode": self.exit_code, "StartedAt": started, "Error": ""}
        return {"Id": self.id, "Config": {"Labels": self.labels}, "State": state}


class FakeDaemon:
    """
    The daemon, shared by adapters.

    Attributes:
        away: every call fails as if the daemon were stopped.
        registry: what can be pulled; ``registry_away`` and ``pulls_stall`` make pulls fail.
        local: images on the host.
    """

    def __init__(self, programs: tuple[Program, ...] = ()) -> None:
        self.away = False
        self.registry_away = False
        self.pulls_stall = False
        self.registry: dict[str, Digest] = {}
        self.local: dict[str, Digest] = {}
        self.networks: dict[str, IPv4Network] = {}
        self.containers: dict[ContainerId, FakeContainer] = {}
        self.programs = {program.command: program for program in programs}
        self.listeners: list[asyncio.Queue[tuple[str, FakeContainer]]] = []

    def publish(self, action: str, subject: FakeContainer) -> None:
        """Tell every listener."""
        for queue in self.listeners:
            queue.put_nowait((action, subject))

    def die(self, id_: ContainerId, exit_code: int) -> None:
        """End a container's process as if it had ended by itself."""
        subject = self.containers[id_]
        subject.status, subject.exit_code = "exited", exit_code
        self.publish("die", subject)


class FakeDocker:
    """One app's view of a :class:`FakeDaemon`."""

    def __init__(self, daemon: FakeDaemon, app: App, node: NodeName) -> None:
        self._daemon = daemon
        self._app = app
        self._node = node

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    async def info(self) -> DaemonInfo:
        self._reach()
        return DaemonInfo("0", "1.41", "memory", live_restore=True, os="linux", architecture="amd64")

    async def ensure_network(self) -> None:
        self._reach()
        name, subnet = self._app.network_name, self._app.subnet
        setting = f"apps.{self._app.name}.subnet"
        if (known := self._daemon.networks.get(name)) is not None:
            if known != subnet:
                raise DockerRefusedError(f"{setting}: Docker network {name} exists, but its subnet is {known}")
            return
        if any(other.overlaps(subnet) for other in self._daemon.networks.values()):
            raise DockerRefusedError(f"{setting} {subnet}: Pool overlaps with other one on this address space")
        self._daemon.networks[name] = subnet

    async def pull(self, reference: ImageReference, progress: PullProgress, stall_s: float) -> Digest:
        self._reach()
        name = pull_name(reference)
        pinned = pinned_digest(reference)
        if pinned and name in self._daemon.local:
            return pinned
        if self._daemon.registry_away:
            raise ImagePullError(f"pull of {reference}: connection refused")
        if name not in self._daemon.registry:
            raise ImageRefusedError(f"pull of {reference}: manifest unknown")
        progress.feed({"status": "Downloading", "id": "a", "progressDetail": {"current": 62, "total": 100}})
        await asyncio.sleep(0)
        if self._daemon.pulls_stall:
            await asyncio.sleep(stall_s)
            raise stalled(reference, progress, stall_s)
        digest = self._daemon.registry[name]
        self._daemon.local[name] = self._daemon.local[f"{repository(reference)}@{digest}"] = digest
        return digest

    async def local_digest(self, reference: ImageReference) -> Digest | None:
        self._reach()
        return self._daemon.local.get(pull_name(reference))

    async def images(self) -> tuple[Image, ...]:
        self._reach()
        digests = sorted(set(self._daemon.local.values()))
        names = {each: tuple(name for name, digest in self._daemon.local.items() if digest == each) for each in digests}
        return tuple(Image(digest, names[digest], 0, 0) for digest in digests)

    async def remove_image(self, name: str) -> None:
        self._reach()
        digest = self._daemon.local.get(name, Digest(name))
        if any(each.labels.get(f"{LABEL_PREFIX}digest") == digest for each in self._daemon.containers.values()):
            raise DockerRefusedError(f"Docker: remove image {name}: image is being used by a container")
        gone = {name} if name in self._daemon.local else {key for key, id_ in self._daemon.local.items() if id_ == name}
        self._daemon.local = {key: value for key, value in self._daemon.local.items() if key not in gone}

    async def containers(self) -> Listing:
        self._reach()
        containers: list[Container] = []
        strays: list[ContainerId] = []
        for each in self._own():
            try:
                containers.append(container(each.shown()))
            except ValueError:
                strays.append(each.id)
        return Listing(tuple(sorted(containers, key=lambda each: each.occupancy)), tuple(sorted(strays)))

    async def run(self, request: RunRequest) -> ContainerId:
        self._reach()
        release = request.release
        file_env = read_env_files(release.spec.env_files)
        if release.digest not in self._daemon.local.values():
            raise DockerRefusedError(f"Docker: image {release.reference} ({release.digest}) is not on this host")
        if self._app.network_name not in self._daemon.networks:
            raise DockerRefusedError(f"Docker: network {self._app.network_name} not found")
        name = container_name(self._app, self._node, request)
        if any(each.name == name for each in self._daemon.containers.values()):
            raise DockerRefusedError(f"Docker: create {name}: the name is already in use")
        config = container_config(self._app, self._node, request, image=release.digest, file_env=file_env)
        created = FakeContainer(
            id=ContainerId(secrets.token_hex(32)),
            name=name,
            labels=config["Labels"],
            program=self._daemon.programs.get(release.spec.command, Program(release.spec.command)),
            env=dict(entry.split("=", 1) for entry in config["Env"]),
            network=self._app.network_name,
            address=self._app.address(request.slot),
        )
        self._daemon.containers[created.id] = created
        self._daemon.publish("create", created)
        try:
            await self.start(created.id)
        except DockerRefusedError as exc:
            await self.remove(created.id)
            if (taken := address_taken(self._app, request.slot, exc)) is not None:
                raise taken from exc
            raise
        return created.id

    async def start(self, id_: ContainerId) -> None:
        self._reach()
        subject = self._daemon.containers.get(id_)
        if subject is None:
            raise DockerRefusedError(f"Docker: start {id_[:12]}: No such container: {id_}")
        if subject.status == "running":
            return
        if subject.program.is_missing:
            raise DockerRefusedError(f"Docker: start {id_[:12]}: executable file not found in $PATH")
        if any(each.status == "running" and each.address == subject.address for each in self._others(subject)):
            raise DockerRefusedError(f"Docker: start {id_[:12]}: Address already in use")
        subject.status, subject.starts = "running", subject.starts + 1
        subject.output.extend(line.format_map(subject.env) for line in subject.program.lines)
        self._daemon.publish("start", subject)
        code = subject.program.exit_code
        if subject.program.exit_variable:
            code = int(subject.env[subject.program.exit_variable])
        if code is not None:
            self._daemon.die(id_, code)

    async def stop(self, id_: ContainerId, grace_s: float) -> None:
        self._reach()
        subject = self._daemon.containers.get(id_)
        if subject is None or subject.status != "running":
            return
        if subject.program.ignores_term:
            await asyncio.sleep(grace_s)
        if subject.status == "running":
            self._daemon.die(id_, 137 if subject.program.ignores_term else 0)

    async def remove(self, id_: ContainerId) -> None:
        self._reach()
        if subject := self._daemon.containers.pop(id_, None):
            self._daemon.publish("destroy", subject)

    async def tail(self, id_: ContainerId, lines: int = 20, max_bytes: int = 4096) -> tuple[str, ...]:
        self._reach()
        subject = self._daemon.containers.get(id_)
        if subject is None:
            return ()
        return last_lines(hide("\n".join(subject.output), subject.env.values()), lines, max_bytes)

    async def events(self) -> AsyncGenerator[str, None]:
        self._reach()
        queue: asyncio.Queue[tuple[str, FakeContainer]] = asyncio.Queue()
        self._daemon.listeners.append(queue)
        try:
            yield "connected"
            while True:
                action, subject = await queue.get()
                self._reach()
                if self._is_own(subject):
                    yield action
        finally:
            self._daemon.listeners.remove(queue)

    def _reach(self) -> None:
        if self._daemon.away:
            raise DockerUnavailableError("Docker: cannot connect")

    def _own(self) -> tuple[FakeContainer, ...]:
        return tuple(each for each in self._daemon.containers.values() if self._is_own(each))

    def _is_own(self, subject: FakeContainer) -> bool:
        wanted = dict(entry.split("=", 1) for entry in labels_filter(self._app, self._node))
        return wanted.items() <= subject.labels.items()

    def _others(self, subject: FakeContainer) -> tuple[FakeContainer, ...]:
        return tuple(each for each in self._daemon.containers.values() if each is not subject)

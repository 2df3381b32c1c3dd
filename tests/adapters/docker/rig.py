"""What the Docker suites share: commands that behave in known ways, and a bench of fake or real daemon."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Protocol

from agent.adapters.docker.adapter import DockerAdapter
from agent.adapters.docker.container_config import RunRequest
from agent.core.host.observed import Container
from agent.core.model.app import App
from agent.core.model.names import (
    ContainerId,
    Digest,
    ImageReference,
    NodeName,
    SlotName,
    parse_app,
    parse_digest,
    parse_reference,
)
from agent.core.model.release import Release
from agent.core.model.spec import LABEL_PREFIX, RunSpec
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.tools import tool
from tests.adapters.fakes.docker import FakeContainer, FakeDaemon, FakeDocker, Program

NODE = NodeName("web-1.example")
LOOP = "while :; do busybox sleep 0.05; done"


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


POLITE = Program(shell(f"trap 'exit 0' TERM; echo ready; {LOOP}"), lines=("ready",))
STUBBORN = Program(shell(f"trap '' TERM; echo ready; {LOOP}"), lines=("ready",), ignores_term=True)
CRASH = Program(shell("echo one; echo two; exit 3"), lines=("one", "two"), exit_code=3)
CODE = Program(shell("exit $CODE"), exit_variable="CODE")
TALKATIVE = Program(
    shell("printf 'red \\033[31malert\\033[0m\\a\\n'; echo key is $KEY"),
    lines=("red \x1b[31malert\x1b[0m\a", "key is {KEY}"),
    exit_code=0,
)
MISSING = Program(("no-such-program",), is_missing=True)
PROGRAMS = (POLITE, STUBBORN, CRASH, CODE, TALKATIVE, MISSING)

AnyDocker = DockerAdapter | FakeDocker


class Bench(Protocol):
    """A daemon with one local image, fake or real."""

    app: App
    reference: ImageReference
    digest: Digest

    def adapter(self, app: App | None = None, node: NodeName = NODE) -> AnyDocker:
        """Return a new adapter on this daemon."""

    def adapter_of_nothing(self) -> AnyDocker:
        """Return an adapter whose daemon is away."""

    async def address(self, id_: ContainerId) -> IPv4Address:
        """Return the address that a container really has."""

    async def make_stray(self) -> ContainerId:
        """Create a container with our app and node labels and no other sensible one."""

    async def networks(self) -> list[IPv4Network]:
        """Return the subnet of each network that has the app's name."""


def make_app(name: str, subnet: IPv4Network) -> App:
    return App(name=parse_app(name), subnet=subnet)


def release(bench: Bench, spec: RunSpec, generation: int = 0) -> Release:
    return Release(bench.reference, bench.digest, spec, generation)


def request(bench: Bench, program: Program, *, occupancy: int = 1, **spec: Any) -> RunRequest:
    """Ask for *program* in slot blue, with further fields of the run spec."""
    return RunRequest(SlotName.BLUE, release(bench, RunSpec(command=program.command, **spec)), occupancy)


async def only(docker: AnyDocker) -> Container:
    """Return the one container there is."""
    listing = await docker.containers()
    assert len(listing.containers) == 1
    return listing.containers[0]


class FakeBench:
    def __init__(self, name: str) -> None:
        self.app = make_app(name, IPv4Network("172.29.1.0/24"))
        self.daemon = FakeDaemon(PROGRAMS)
        self.reference = parse_reference(f"{name}:1")
        self.digest = parse_digest("sha256:" + "ab" * 32)
        self.daemon.local[f"docker.io/library/{name}:1"] = self.digest

    def adapter(self, app: App | None = None, node: NodeName = NODE) -> FakeDocker:
        return FakeDocker(self.daemon, app or self.app, node)

    def adapter_of_nothing(self) -> FakeDocker:
        daemon = FakeDaemon()
        daemon.away = True
        return FakeDocker(daemon, self.app, NODE)

    async def address(self, id_: ContainerId) -> IPv4Address:
        address = self.daemon.containers[id_].address
        assert address is not None
        return address

    async def make_stray(self) -> ContainerId:
        id_ = ContainerId("f" * 64)
        labels = {f"{LABEL_PREFIX}app": self.app.name, f"{LABEL_PREFIX}node": NODE, f"{LABEL_PREFIX}slot": "red"}
        self.daemon.containers[id_] = FakeContainer(id_, "stray", labels, POLITE, {}, "", None)
        return id_

    async def networks(self) -> list[IPv4Network]:
        return [subnet for name, subnet in self.daemon.networks.items() if name == self.app.network_name]


@dataclass(frozen=True, slots=True)
class RealImage:
    """An image in the lab's daemon."""

    docker: DockerDaemon
    reference: ImageReference
    digest: Digest


class RealBench:
    """The lab's daemon; what it made goes with :meth:`clean`."""

    def __init__(self, image: RealImage, app: App) -> None:
        self.docker = image.docker
        self.reference, self.digest = image.reference, image.digest
        self.app = app
        self._open: list[DockerAdapter] = []

    def adapter(self, app: App | None = None, node: NodeName = NODE) -> DockerAdapter:
        return self._opened(DockerAdapter(self.docker.host, app or self.app, node))

    def adapter_of_nothing(self) -> DockerAdapter:
        return self._opened(DockerAdapter("unix:///nonexistent/docker.sock", self.app, NODE))

    async def address(self, id_: ContainerId) -> IPv4Address:
        networks = (await self.inspect(id_))["NetworkSettings"]["Networks"]
        return IPv4Address(networks[self.app.network_name]["IPAddress"])

    async def make_stray(self) -> ContainerId:
        labels = (f"app={self.app.name}", f"node={NODE}", "slot=red")
        flags = [f"--label={LABEL_PREFIX}{label}" for label in labels]
        return ContainerId((await self.docker.cli("create", *flags, self.reference, "sh")).strip())

    async def networks(self) -> list[IPv4Network]:
        name = f"name=^{self.app.network_name}$"
        ids = (await self.docker.cli("network", "ls", "-q", "--filter", name)).split()
        return [IPv4Network(config["Subnet"]) for id_ in ids for config in (await self.inspect(id_))["IPAM"]["Config"]]

    async def inspect(self, id_: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(await self.docker.cli("inspect", id_))[0]
        return shown

    async def clean(self) -> None:
        for adapter in self._open:
            await adapter.close()
        await self.docker.remove_labelled(f"{LABEL_PREFIX}app={self.app.name}")

    def _opened(self, adapter: DockerAdapter) -> DockerAdapter:
        self._open.append(adapter)
        return adapter


async def build(docker: DockerDaemon, tag: str, *extra: str, payload: bytes = b"", flags: Sequence[str] = ()) -> str:
    """Build an image of busybox alone, with *payload* as a layer of its own; return its id."""
    with tempfile.TemporaryDirectory(prefix="tg-image-") as directory:
        shutil.copy(tool("busybox"), Path(directory) / "busybox")
        (Path(directory) / "payload").write_bytes(payload)
        lines = ("FROM scratch", "COPY payload /payload", "COPY busybox /bin/busybox", "COPY busybox /bin/sh", *extra)
        (Path(directory) / "Dockerfile").write_text("\n".join(lines))
        await docker.cli("build", "-q", *flags, "-t", tag, directory)
    return (await docker.cli("image", "inspect", "-f", "{{.Id}}", tag)).strip()

"""The servers, images and the host that the demo needs, and how a person plays with them afterwards."""

import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cluster.servers.consul import ConsulServer, consul_server
from cluster.servers.dockerd import docker_daemon
from cluster.servers.host import Host, Plan, host
from cluster.servers.images import Images
from cluster.servers.registry import registry
from cluster.servers.tools import tool

APP = "cs90"
ACTIVE_KEY = f"{APP}/active/image"
STAGE_KEY = f"{APP}/stage/image"


@dataclass(frozen=True, slots=True)
class References:
    """The images in the registry: two that work, and one that never gets healthy."""

    a: str
    b: str
    bad: str


@dataclass(frozen=True, slots=True)
class Lab:
    """All that runs; `registry` is its address, as in the references."""

    consul: ConsulServer
    host: Host
    registry: str
    images: References

    @property
    def visit_idle_s(self) -> float:
        """After how many seconds of silence a visit has ended."""
        return self.host.settings.app.knobs.visit_idle


@asynccontextmanager
async def demo_lab(knobs: Mapping[str, str]) -> AsyncIterator[Lab]:
    """
    Run Consul, a registry with the images, and a host with these *knobs* whose agent is not started yet.

    Raises:
        LabError: something cannot start, with the reason.
    """
    # Demos that share a Docker daemon tell their containers, networks and images apart by it.
    run = uuid.uuid4().hex[:6]
    async with docker_daemon() as docker, consul_server() as consul, registry() as store:
        images = Images(docker, store)
        try:
            references = await _push(images, run)
            async with host(Plan(APP, node=f"demo-{run}", knobs=knobs), docker, consul) as made:
                yield Lab(consul, made, store.address, references)
        finally:
            await images.forget()


async def _push(images: Images, run: str) -> References:
    own = {"DEMO_RUN": run}
    return References(
        a=await images.testapp("a", env=own),
        b=await images.testapp("b", env=own),
        bad=await images.testapp("bad", env={**own, "UNHEALTHY": "1", "LOG": "1"}),
    )


def how_to_play(console: Console, lab: Lab) -> None:
    """Say what may be done by hand while everything is left running."""
    consul, tidegate = _short(Path(tool("consul"))), _short(Path(sys.executable).with_name("tidegate"))
    images = lab.images
    steps = (
        ("look at the site", f"curl -i http://{lab.host.target}/"),
        ("watch the host", f"{tidegate} status --watch --api-port {lab.host.settings.api.port}"),
        ("talk to this Consul", f"export CONSUL_HTTP_ADDR={lab.consul.address}"),
        ("stage a beside b", f"{consul} kv put {STAGE_KEY} {images.a}"),
        ("new visitors get a", f"{consul} kv put {ACTIVE_KEY} {images.a}"),
        ("and back to b", f"{consul} kv put {ACTIVE_KEY} {images.b}"),
        ("see a refusal", f"{consul} kv put {STAGE_KEY} {images.bad}"),
    )
    console.print("\nEverything is left running; in another terminal, here:", style="bold")
    for words, command in steps:
        # Unstyled and unwrapped, to be copied.
        console.print(f"  {words:<20} {command}", soft_wrap=True, markup=False)
    console.print("Ctrl-C here stops and removes all of it.", style="bold")


def _short(path: Path) -> str:
    """Return *path* from the current directory where it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

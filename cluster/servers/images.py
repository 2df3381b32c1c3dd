"""Images for the lab's registry: the test app in its versions and variants, and the PHP page."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from cluster.servers.dockerd import DockerDaemon
from cluster.servers.tools import LabError, cache_dir, run

APP = Path(__file__).parents[2] / "app"
HUB_PHP_BASE = "php:8-apache"
OWN_PHP_BASE = "tidegate/php-base:bookworm"

Exits = Literal["finish", "at-once"]


@dataclass(frozen=True, slots=True)
class Build:
    """What `docker build` is given: a directory with a Dockerfile, and its build arguments."""

    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)


class Registry(Protocol):
    """Where images go: `address` as in references, `docker_config` a directory for `docker --config`."""

    @property
    def address(self) -> str: ...
    @property
    def docker_config(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class Store:
    """A registry that somebody else runs."""

    address: str
    docker_config: Path


class Images:
    """Builds with *docker* and pushes to *registry*; nothing stays in the daemon, so that a pull is a real one."""

    def __init__(self, docker: DockerDaemon, registry: Registry) -> None:
        self._docker = docker
        self._registry = registry
        self._compiling = asyncio.Lock()
        self._testapp = b""

    async def push(self, build: Build, name: str, tag: str) -> str:
        """Build, push as *name*:*tag* and return the full reference; LabError says what Docker refused."""
        reference = f"{self._registry.address}/{name}:{tag}"
        arguments = [f"--build-arg={key}={value}" for key, value in build.arguments.items()]
        # A layer out of the cache may be removed by another test process while it is built upon.
        await self._docker.cli(
            "build", "-q", "--no-cache", "-t", reference, *arguments, str(build.context), timeout_s=120
        )
        try:
            await self._docker.cli(
                "--config", str(self._registry.docker_config), "push", "-q", reference, timeout_s=120
            )
        finally:
            await self._docker.cli("rmi", reference)
        return reference

    async def testapp(
        self,
        version: str,
        *,
        exits: Exits = "finish",
        env: Mapping[str, str] | None = None,
        padding_bytes: int = 0,
    ) -> str:
        """
        Push the test app as ``testapp:<version>-<exits>``.

        Args:
            version: what it says it is.
            exits: on SIGTERM it finishes what is open, or dies at once.
            env: further environment, written into the image (it then has a tag of its own: pass a new version).
            padding_bytes: of a further layer, so that a pull takes its time.
        """
        with tempfile.TemporaryDirectory(prefix="tg-testapp-") as directory:
            context = Path(directory)
            binary = context / "testapp"
            binary.write_bytes(await self._compiled())
            binary.chmod(0o755)
            dockerfile = (APP / "testapp" / "Dockerfile").read_text()
            extra = "".join(f'ENV {key}="{value}"\n' for key, value in (env or {}).items())
            if padding_bytes:
                (context / "padding").write_bytes(os.urandom(padding_bytes))
                extra += "COPY padding /padding\n"
            (context / "Dockerfile").write_text(f"{dockerfile}\n{extra}")
            build = Build(context, {"VERSION": version, "ON_TERM": exits})
            return await self.push(build, "testapp", f"{version}-{exits}")

    async def php_page(self, version: str) -> str:
        """Push the demo's PHP page as ``page:<version>``."""
        base = await self._php_base()
        return await self.push(Build(APP, {"BASE": base, "VERSION": version}), "page", version)

    async def forget(self) -> None:
        """Remove from the daemon what containers of the lab pulled from this registry."""
        listing = await self._docker.cli(
            "images", "-q", "--no-trunc", "--filter", f"reference={self._registry.address}/*"
        )
        if images := sorted(set(listing.split())):
            # One that a container still uses stays; its owner removes it.
            with contextlib.suppress(LabError):
                await self._docker.cli("rmi", "-f", *images, timeout_s=60)

    async def _compiled(self) -> bytes:
        """Return the test app's binary, compiled once."""
        async with self._compiling:
            self._testapp = self._testapp or await _compile_testapp()
            return self._testapp

    async def _php_base(self) -> str:
        """Return the base that set-up chose: Docker Hub's where it answered, else the one made of Debian's packages."""
        own = cache_dir() / "php-base.tar"
        if not own.exists():
            await self._docker.cli("pull", "-q", HUB_PHP_BASE, timeout_s=300)
            return HUB_PHP_BASE
        if not (await self._docker.cli("images", "-q", OWN_PHP_BASE)).strip():
            await self._docker.cli("import", str(own), OWN_PHP_BASE, timeout_s=120)
        return OWN_PHP_BASE


async def _compile_testapp() -> bytes:
    sources = sorted(str(path) for path in (APP / "testapp").glob("*.c"))
    with tempfile.TemporaryDirectory(prefix="tg-testapp-") as directory:
        binary = Path(directory) / "testapp"
        await run(["gcc", "-O2", "-static", "-pthread", "-o", str(binary), *sources], timeout_s=60)
        return binary.read_bytes()

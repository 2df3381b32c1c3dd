"""The images of the cluster's machines, built from this checkout: what is not there yet, or has changed."""

import asyncio
import fcntl
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.servers.dockerd import DockerDaemon
from cluster.servers.tools import cache_dir, run, tool

ROOT = Path(__file__).resolve().parents[1]
HUB_BASE = "debian:bookworm-slim"
OWN_BASE = "tidegate/machine-base:bookworm"
ROLES = ("web", "consul", "edge", "registry")
LOCKS = ("requirements.lock", "requirements-infra.lock", "requirements-build.lock")
SHIPPED = ("agent", "haproxy", "infra", "systemd", "pyproject.toml", "README.md", "LICENSE", *LOCKS)
"""What a machine is provisioned from."""
MACHINE_BASE = os.environ.get("TIDEGATE_MACHINE_BASE", "")
"""An image of another Debian or Ubuntu, from which to make the machines."""
MACHINE_PYTHON = os.environ.get("TIDEGATE_MACHINE_PYTHON") or "3.11"
"""The Python that ``provision.sh`` finds there."""
_SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc")


async def build_machines(docker: DockerDaemon) -> dict[str, str]:
    """
    Return the image of each role; about a minute for the first time, half of it after a change, else at once.

    Raises:
        LabError: Docker refuses, or a package is not to be had.
    """
    async with _one_at_a_time():
        with tempfile.TemporaryDirectory(prefix="tg-machines-") as home:
            return await _build(Path(home), docker)


@asynccontextmanager
async def _one_at_a_time() -> AsyncIterator[None]:
    """Let several test processes build after each other: the first one's images are there for the others."""
    with (cache_dir() / "machines.lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield


async def _build(context: Path, docker: DockerDaemon) -> dict[str, str]:
    await _fill(context)
    base = await _base(docker)
    tag = _digest(context, base)
    images = {role: f"tidegate/cluster-{role}:{tag}" for role in ROLES}
    known = (await docker.cli("images", "--format", "{{.Repository}}:{{.Tag}}")).split()
    for role, image in images.items():
        if image not in known:
            options = (f"--target={role}", f"--build-arg=BASE={base}", f"-t={image}")
            await docker.cli("build", "-q", *options, str(context), timeout_s=600)
    await _forget([image for image in known if image.startswith("tidegate/cluster-")], images, docker)
    return images


def ship(target: Path) -> None:
    """Copy what a machine is provisioned from to *target*, a directory that is not there yet."""
    target.mkdir()
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=_SKIPPED)
        else:
            shutil.copy(source, target / name)


async def build_wheel(source: Path, target: Path) -> None:
    """Build Tidegate itself from *source* into the directory *target*."""
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q", "-w", str(target))
    await run([sys.executable, "-m", "pip", "wheel", *options, str(source)], timeout_s=60)


async def _fill(context: Path) -> None:
    shutil.copy(Path(__file__).with_name("Dockerfile"), context)
    for program in ("consul", "docker-registry"):
        shutil.copy(tool(program), context / program)
    shutil.copytree(await _requirements(), context / "wheels")
    ship(context / "tidegate")
    await build_wheel(context / "tidegate", context / "tidegate" / "wheels")
    # Neither is what the machines run: their times of building differ each time.
    shutil.rmtree(context / "tidegate" / "build", ignore_errors=True)


async def _requirements() -> Path:
    """Return a directory with the lock and the wheels it names, for the machines' Python; fetched once."""
    lock = ROOT / "requirements.lock"
    key = hashlib.sha256(f"{MACHINE_PYTHON}\n{lock.read_text()}".encode()).hexdigest()[:12]
    wheels = cache_dir() / f"wheels-{key}"
    if wheels.exists():
        return wheels
    with tempfile.TemporaryDirectory(prefix="wheels-", dir=cache_dir()) as home:
        target = Path(home) / "wheels"
        systems = (f"manylinux_2_{minor}_{platform.machine()}" for minor in (17, 28, 36))
        options = [
            *("-q", "--disable-pip-version-check", "-d", str(target), "--no-deps", "--require-hashes", "-r", str(lock)),
            *("--only-binary=:all:", "--implementation=cp", f"--python-version={MACHINE_PYTHON}"),
            *(f"--platform={name}" for name in (*systems, f"manylinux2014_{platform.machine()}")),
        ]
        await run([sys.executable, "-m", "pip", "download", *options], timeout_s=300)
        shutil.copy(lock, target)
        target.rename(wheels)
    return wheels


async def _base(docker: DockerDaemon) -> str:
    """Return the base asked for, else that of set-up: Docker Hub's where it answered, or one of Debian's packages."""
    if MACHINE_BASE:
        return MACHINE_BASE
    own = cache_dir() / "machine-base.tar"
    if not own.exists():
        return HUB_BASE
    if not (await docker.cli("images", "-q", OWN_BASE)).strip():
        await docker.cli("import", str(own), OWN_BASE, timeout_s=120)
    return OWN_BASE


def _digest(context: Path, base: str) -> str:
    content = hashlib.sha256(base.encode())
    for path in sorted(context.rglob("*")):
        if path.is_file() and not path.match("tidegate-*.whl"):
            content.update(f"{path.relative_to(context)}\0{path.stat().st_mode:o}\0".encode())
            content.update(hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()[:12]


async def _forget(known: Sequence[str], wanted: dict[str, str], docker: DockerDaemon) -> None:
    """Remove what an earlier state of the checkout left, unless a cluster runs on it."""
    used = (await docker.cli("ps", "-a", "--format", "{{.Image}}")).split()
    old = [image for image in known if image not in wanted.values() and image not in used]
    if old:
        await docker.cli("rmi", *old, timeout_s=60)

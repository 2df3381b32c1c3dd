"""The host itself: Docker, disk, state directory, and a subnet nobody else routes."""

import os
import shutil
import sys
from ipaddress import IPv4Network
from pathlib import Path

from agent.adapters.docker.adapter import DockerAdapter
from agent.config import Settings
from agent.core.model.errors import TidegateError
from agent.doctor.finding import Finding, fail, ok, warn

API_NEEDED = (1, 41)
FREE_NOTED = 2 * 1024**3


async def check_docker(docker: DockerAdapter) -> list[Finding]:
    """Check that the daemon answers, its version, live-restore, and the app's network."""
    try:
        info = await docker.info()
    except TidegateError as exc:
        return [fail("Docker", str(exc), "start Docker Engine; the agent's user must be in the group 'docker'")]
    api = tuple(int(part) for part in info.api_version.split("."))
    findings = [
        ok("Docker", f"Engine {info.version}, API {info.api_version}, {info.storage_driver}")
        if api >= API_NEEDED
        else fail("Docker", f"API {info.api_version}", "install Docker Engine 20.10 or newer"),
        ok("Docker live-restore", "on: containers outlive a restart of the daemon")
        if info.live_restore
        else warn(
            "Docker live-restore",
            "off: a restart of the daemon stops the app until the agent starts it again",
            'set "live-restore": true in /etc/docker/daemon.json and reload Docker',
        ),
    ]
    try:
        await docker.containers()
    except TidegateError as exc:
        findings.append(fail("Docker containers", str(exc), "look at the daemon's log"))
    return findings


def check_disk(root: Path, state_dir: Path) -> list[Finding]:
    """Check the free space where images lie, and that the journal can be written."""
    findings = []
    try:
        free = shutil.disk_usage(root if root.exists() else "/").free
        shown = f"{free / 1024**3:.1f} GiB free for images"
        findings.append(
            ok("Disk", shown) if free >= FREE_NOTED else fail("Disk", shown, "free some: a pull may fill it up")
        )
    except OSError as exc:
        findings.append(warn("Disk", f"{root}: {exc.strerror}", "look at it as root"))
    if not state_dir.is_dir():
        findings.append(fail("State directory", f"{state_dir} does not exist", "create it for the agent's user"))
    elif not os.access(state_dir, os.W_OK):
        findings.append(fail("State directory", f"{state_dir} cannot be written", "give it to the agent's user"))
    else:
        findings.append(ok("State directory", f"{state_dir} can be written"))
    return findings


def check_subnet(settings: Settings, routes: str | None = None) -> Finding:
    """
    Check that no route of the host overlaps the app's subnet, but that of its own bridge.

    Args:
        routes: content of /proc/net/route; read by default.
    """
    app = settings.app
    text = Path("/proc/net/route").read_text(encoding="ascii") if routes is None else routes
    for line in text.splitlines()[1:]:
        interface, *fields = line.split()
        route = _network(fields[0], fields[6])
        if route.prefixlen == 0 or not route.overlaps(app.subnet) or interface.startswith("br-"):
            continue
        seen = f"{app.subnet} overlaps the route {route} of {interface}"
        return fail("Subnet", seen, f"choose another apps.{app.name}.subnet, one no host of yours needs to reach")
    return ok("Subnet", f"{app.subnet} is the app's own")


def _network(destination: str, mask: str) -> IPv4Network:
    """Read the kernel's little-endian hexadecimals."""
    address, bits = (int.from_bytes(bytes.fromhex(text), sys.byteorder) for text in (destination, mask))
    return IPv4Network((address, bits.bit_count()))

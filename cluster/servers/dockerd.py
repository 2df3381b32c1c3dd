"""The Docker daemon of the lab: the one that runs, else one started for the time being."""

import ipaddress
import os
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.servers.cgroups import clear_unmounted
from cluster.servers.process import ServerProcess
from cluster.servers.tools import LabError, run

DEFAULT_HOST = "unix:///var/run/docker.sock"
# For networks of tests; the daemon's own defaults begin at 172.17.
_SUBNETS = ipaddress.IPv4Network("172.29.0.0/16")
_BRIDGES = ipaddress.IPv4Network("172.28.0.0/16")


@dataclass(frozen=True, slots=True)
class DockerDaemon:
    """A daemon that answers; `host` as in DOCKER_HOST."""

    host: str
    version: str

    @property
    def socket(self) -> Path:
        """
        The path of its socket.

        Raises:
            LabError: it is elsewhere on a network, where container addresses cannot be reached from here.
        """
        if not self.host.startswith("unix://"):
            raise LabError(f"the lab needs a Docker daemon on this machine, DOCKER_HOST is {self.host}")
        return Path(self.host.removeprefix("unix://"))

    async def cli(self, *arguments: str, timeout_s: float = 30) -> str:
        """Run `docker` with *arguments* on this daemon and return what it printed; LabError if it fails."""
        return await run(["docker", "--host", self.host, *arguments], timeout_s=timeout_s)

    async def remove_labelled(self, label: str) -> None:
        """Remove the containers, then the networks, that carry *label* (``name`` or ``name=value``)."""
        containers = (await self.cli("ps", "-aq", "--filter", f"label={label}")).split()
        if containers:
            await self.cli("rm", "-f", "-v", *containers, timeout_s=60)
        networks = (await self.cli("network", "ls", "-q", "--filter", f"label={label}")).split()
        if networks:
            await self.cli("network", "rm", *networks)

    async def free_subnet(self) -> ipaddress.IPv4Network:
        """Return a /24 that no Docker network and no route of this machine uses at the moment."""
        used = " ".join(
            [await self._subnets_of(name) for name in (await self.cli("network", "ls", "-q")).split()]
        ).split()
        taken = [ipaddress.IPv4Network(text) for text in used if ":" not in text] + _routes()
        subnets = list(_SUBNETS.subnets(new_prefix=24))
        random.shuffle(subnets)
        for subnet in subnets:
            if not any(subnet.overlaps(other) for other in taken):
                return subnet
        raise LabError(f"every network in {_SUBNETS} is in use")

    async def _subnets_of(self, network: str) -> str:
        """Return its subnets; none for one that another test has removed since it was listed."""
        template = "{{range .IPAM.Config}}{{.Subnet}} {{end}}"
        try:
            return await self.cli("network", "inspect", "-f", template, network)
        except LabError:
            return ""


@asynccontextmanager
async def docker_daemon() -> AsyncIterator[DockerDaemon]:
    """
    Use the running daemon, or run one (about 8 s) and stop it in the end.

    Raises:
        LabError: none runs and none can be started, with the reason; or it is a rootless one.
    """
    host = await _configured_host()
    if (daemon := await _ask(host)) is not None:
        await _refuse_rootless(daemon)
        yield daemon
        return
    if host != DEFAULT_HOST:
        raise LabError(f"no Docker daemon answers at {host}")
    if os.geteuid() != 0:
        raise LabError("no Docker daemon answers to this user; only root may start one (make test uses sudo)")
    await clear_unmounted()  # of a cluster whose end nobody waited for
    async with started_daemon(host) as daemon:
        yield daemon


async def daemon_runs() -> bool:
    """Whether a daemon answers, so that `docker_daemon` would start none."""
    return await _ask(await _configured_host()) is not None


@asynccontextmanager
async def started_daemon(host: str, options: Sequence[str] = ()) -> AsyncIterator[DockerDaemon]:
    """Run a `dockerd` at *host* with further *options*; its containers end with it."""
    with tempfile.TemporaryDirectory(prefix="tg-dockerd-") as home:
        service = DockerService(host, Path(home) / "dockerd.log", options)
        try:
            yield await service.start()
        finally:
            await service.stop()


class DockerService:
    """A `dockerd` that is started, stopped and started again, as its unit does."""

    def __init__(self, host: str, log: Path, options: Sequence[str] = (), *, root: Path | None = None) -> None:
        self.host = host
        self.root = root or Path("/var/lib/docker")
        """Where its images lie."""
        self.process = ServerProcess(
            ["dockerd", "--host", host, "--log-level", "warn", *options],
            log=log,
            # It has containers to stop before it ends.
            death_signal=signal.SIGTERM,
        )

    async def start(self) -> DockerDaemon:
        """Start it; returns when it answers."""
        await _start(self.process, self.host)
        daemon = await _ask(self.host)
        if daemon is None:
            raise LabError(f"dockerd does not answer:\n{self.process.log_tail()}")
        return daemon

    async def stop(self) -> None:
        """End it; its containers end with it unless it has ``--live-restore``. Idempotent."""
        await self.process.stop(grace_s=20)


@asynccontextmanager
async def separate_daemon(options: Sequence[str] = (), *, disk: str = "") -> AsyncIterator[DockerService]:
    """
    Run a `dockerd` beside the one of the machine, with bridge, directories and containers of its own.

    Args:
        options: further ones, as ``--live-restore``.
        disk: size of the disk its images lie on, as ``64m``; the machine's own by default.

    Raises:
        LabError: not root, or it cannot be started.
    """
    if os.geteuid() != 0:
        raise LabError("only root may start a Docker daemon of its own (make test uses sudo)")
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tgd-")))
        root, bridge = home / "root", f"tg{home.name[4:]}"
        root.mkdir()
        stack.push_async_callback(_unmount, home)
        if disk:
            await run(["mount", "-t", "tmpfs", "-o", f"size={disk}", "tmpfs", str(root)], timeout_s=10)
        await run(["ip", "link", "add", bridge, "type", "bridge"], timeout_s=10)
        stack.push_async_callback(run, ["ip", "link", "delete", bridge], timeout_s=10)
        subnet = _unused_subnet()
        await run(["ip", "addr", "add", f"{subnet[1]}/24", "dev", bridge], timeout_s=10)
        await run(["ip", "link", "set", bridge, "up"], timeout_s=10)
        directories = {"--data-root": root, "--exec-root": home / "exec", "--pidfile": home / "pid"}
        own = [f"{name}={path}" for name, path in directories.items()]
        service = DockerService(
            f"unix://{home}/docker.sock",
            home / "dockerd.log",
            # Two daemons must not write the firewall's rules in turns; what is sent stays on this machine.
            [*own, f"--bridge={bridge}", "--iptables=false", "--ip-forward=false", *options],
            root=root,
        )
        stack.push_async_callback(_end, service)
        await service.start()
        yield service


async def _end(service: DockerService) -> None:
    """Remove the containers, which might outlive their daemon, then end it."""
    daemon = await _ask(service.host)
    if daemon is not None:
        if containers := (await daemon.cli("ps", "-aq")).split():
            await daemon.cli("rm", "-f", "-v", *containers, timeout_s=60)
        await daemon.cli("network", "prune", "-f")
    await service.stop()


async def _unmount(home: Path) -> None:
    """Unmount what is mounted below *home*: the disk, and what a daemon with live-restore leaves mounted."""
    for mount in reversed(_mounts()):
        if mount.startswith(f"{home}/"):
            await run(["umount", "-l", mount], timeout_s=10)


def _mounts() -> list[str]:
    return [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]


def _unused_subnet() -> ipaddress.IPv4Network:
    taken = _routes()
    return next(net for net in _BRIDGES.subnets(new_prefix=24) if not any(net.overlaps(other) for other in taken))


def _routes() -> list[ipaddress.IPv4Network]:
    """Return this machine's routes but the default one, as the kernel lists them (little-endian hexadecimals)."""
    routes = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(fields[at]), sys.byteorder) for at in (1, 7))
        if mask:
            routes.append(ipaddress.IPv4Network((address, mask.bit_count())))
    return routes


async def _start(process: ServerProcess, host: str) -> None:
    async def ready() -> bool:
        return await _ask(host) is not None

    try:
        await process.start(ready, deadline_s=60)
    except LabError as exc:
        if "iptables" in str(exc):
            hint = "if kernel and iptables disagree: update-alternatives --set iptables "
            raise LabError(f"dockerd cannot set up its network: {hint}/usr/sbin/iptables-legacy\n{exc}") from exc
        raise


async def _configured_host() -> str:
    """Return where the docker command line would look: DOCKER_HOST, else the current context."""
    if given := os.environ.get("DOCKER_HOST"):
        return given
    host = await run(["docker", "context", "inspect", "-f", "{{.Endpoints.docker.Host}}"], timeout_s=10)
    return host.strip() or DEFAULT_HOST


async def _ask(host: str) -> DockerDaemon | None:
    """Ask the daemon at *host* for its version; None where none answers."""
    command = ["docker", "--host", host, "version", "-f", "{{.Server.Version}}"]
    try:
        version = (await run(command, timeout_s=10)).strip()
    except LabError:
        return None
    return DockerDaemon(host, version) if version else None


async def _refuse_rootless(daemon: DockerDaemon) -> None:
    if "rootless" in await daemon.cli("info", "-f", "{{.SecurityOptions}}"):
        raise LabError("a rootless Docker daemon hides container addresses from this host; use the system's daemon")

"""One machine of the cluster: a container with systemd in it, and all that may befall it."""

import asyncio
import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from agent.core.model.report import NodeReport
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.process import eventually
from cluster.servers.tools import LabError, tool
from cluster.settings import File, pack

BOOT_S = 60.0
PAUSE_S = 0.25
"""Between two looks: each is a process in a container."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine *name* at *address*, in the container *container*."""

    name: str
    container: str
    address: str
    docker: DockerDaemon

    async def run(self, *command: str, timeout_s: float = 30, given: bytes = b"") -> str:
        """Run a command inside, as root, and return what it printed; LabError if it fails."""
        process = await asyncio.create_subprocess_exec(
            *(tool("docker"), "--host", self.docker.host, "exec", "-i", self.container, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(timeout_s):
                out, _ = await process.communicate(given)
        except TimeoutError as exc:
            raise LabError(f"{self.name}: {' '.join(command)}: not done after {timeout_s:g} s") from exc
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise LabError(f"{self.name}: {' '.join(command)}: exit status {process.returncode}: {out.decode()}")
        return out.decode()

    async def shell(self, script: str, *, timeout_s: float = 30) -> str:
        """Run a script of ``sh`` inside."""
        return await self.run("sh", "-c", script, timeout_s=timeout_s)

    async def put(self, files: Sequence[File]) -> None:
        """Write *files*, with their owners and modes."""
        await self.run("tar", "-x", "-p", "-C", "/", given=pack(files))

    async def booted(self) -> None:
        """Wait until systemd has started what it starts; LabError names the units that failed."""

        async def runs() -> bool:
            with contextlib.suppress(LabError):
                state = await self.shell("systemctl is-system-running || true", timeout_s=10)
                if state.strip() in ("running", "degraded"):
                    return True
            await asyncio.sleep(PAUSE_S)
            return False

        if not await eventually(runs, deadline_s=BOOT_S):
            raise LabError(f"{self.name} has not booted:\n{await self.docker.cli('logs', self.container)}")

    async def systemctl(self, verb: str, *units: str) -> None:
        """Ask systemd inside for something, without waiting until it is done."""
        await self.run("systemctl", "--no-block", verb, *units)

    async def journal(self, unit: str, *, lines: int = 40) -> str:
        """Return the end of what *unit* logged."""
        return await self.run("journalctl", "-q", "--no-pager", "-o", "cat", "-n", str(lines), "-u", unit)

    async def report(self) -> NodeReport | None:
        """Return what its agent says; None while it does not answer."""
        script = (
            "import sys, urllib.request as u; "
            "sys.stdout.write(u.urlopen('http://127.0.0.1:8405/v1/status', timeout=3).read().decode())"
        )
        with contextlib.suppress(LabError):
            return NodeReport.model_validate_json(await self.run("python3", "-c", script, timeout_s=10))
        return None

    async def asks(self, path: str = "/_lb/cs90") -> tuple[int, str]:
        """Ask its HAProxy as the edge does; status and text, (0, reason) where nothing answers."""
        limit = aiohttp.ClientTimeout(total=3)
        try:
            async with aiohttp.ClientSession(timeout=limit) as http, http.get(f"http://{self.address}{path}") as reply:
                return reply.status, await reply.text()
        except (aiohttp.ClientError, TimeoutError) as exc:
            return 0, str(exc)

    # --- what may befall it ---

    async def freeze(self) -> None:
        """Stop its agent in its tracks: it is there and does nothing."""
        await self.run("systemctl", "kill", "--signal=STOP", "tidegate-agent")

    async def thaw(self) -> None:
        """Let a frozen agent go on."""
        await self.run("systemctl", "kill", "--signal=CONT", "tidegate-agent")

    async def reboot(self) -> None:
        """Shut down in order and start again; returns when it has begun to boot."""
        await self.docker.cli("restart", "-t", "60", self.container, timeout_s=120)

    async def cut_power(self) -> None:
        """End everything in it at once."""
        await self.docker.cli("kill", self.container)

    async def power_off(self) -> None:
        """Shut down in order."""
        await self.docker.cli("stop", "-t", "60", self.container, timeout_s=120)

    async def power_on(self) -> None:
        """Start it again after either."""
        await self.docker.cli("start", self.container)

    async def part_from(self, addresses: Sequence[str]) -> None:
        """Drop all packets to and from *addresses*, and all gossip."""
        rules = [f"iptables -w -I {chain} {way} {each} -j DROP" for each in addresses for chain, way in _WAYS]
        rules += [f"iptables -w -I {chain} -p {kind} --dport 8301 -j DROP" for kind in _KINDS for chain, _ in _WAYS]
        await self.shell(" && ".join(rules))

    async def rejoin(self, addresses: Sequence[str]) -> None:
        """Take back what `part_from` did, where it was done."""
        rules = [f"iptables -w -D {chain} {way} {each} -j DROP" for each in addresses for chain, way in _WAYS]
        rules += [f"iptables -w -D {chain} -p {kind} --dport 8301 -j DROP" for kind in _KINDS for chain, _ in _WAYS]
        await self.shell("; ".join(f"{rule} 2>/dev/null" for rule in rules) + "; true")


_WAYS = (("OUTPUT", "-d"), ("INPUT", "-s"))
_KINDS = ("tcp", "udp")


async def until_ready(machine: Machine, *, deadline_s: float = 60.0) -> float:
    """
    Wait until the machine tells load balancers that it is ready.

    Raises:
        LabError: not in time, with its report and the end of its agent's log.
    """
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    last = (0, "")

    async def ready() -> bool:
        nonlocal last
        last = await machine.asks()
        return last == (200, "ready")

    if not await eventually(ready, deadline_s=deadline_s):
        report = await machine.report()
        shown = report.model_dump_json(indent=1, exclude_defaults=True) if report else "no report"
        log = await machine.journal("tidegate-agent")
        raise LabError(f"{machine.name} is not ready after {deadline_s} s: {last}\n{shown}\n{log}")
    return loop.time() - began_at

"""
One server process of the lab: started, waited for, frozen, killed, and never left behind.

It belongs to no event loop, so that one server can serve a whole test session. Each has a process group of
its own (Ctrl-C reaches the test, not the server), and the kernel ends it if the test process dies.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import aiohttp

from cluster.servers.tools import LabError, search_path, tool

Condition = Callable[[], Awaitable[bool]]
POLL_S = 0.02


class ServerProcess:
    """A program that runs until it is stopped; *log* receives all that it prints."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = Path(argv[0]).name
        self.log = log
        self._argv = (tool("setpriv"), "--pdeathsig", death_signal.name[3:], "--", tool(argv[0]), *argv[1:])
        self._env = {**os.environ, "PATH": search_path(), **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; the same for the whole life of the process."""
        if self._process is None:
            raise LabError(f"{self.name} was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs (or is frozen)."""
        return self._process is not None and self._process.poll() is None

    async def start(self, ready: Condition, *, deadline_s: float) -> None:
        """
        Start it and return when *ready* says so.

        Raises:
            LabError: it ended, or was not ready within *deadline_s*; it does not run then.
        """
        self._spawn()

        async def ready_or_dead() -> bool:
            return not self.alive or await ready()

        try:
            came = await eventually(ready_or_dead, deadline_s=deadline_s)
            if not self.alive:
                raise LabError(f"{self.name} ended while starting:\n{self.log_tail()}")  # noqa: TRY301
            if not came:
                raise LabError(f"{self.name} was not ready after {deadline_s:g} s:\n{self.log_tail()}")  # noqa: TRY301
        except BaseException:
            self.kill()
            raise

    async def stop(self, *, grace_s: float = 5.0) -> None:
        """Ask it to end (SIGTERM), and kill what of its group is left after *grace_s*. Idempotent."""
        if self.alive:
            self.resume()
            os.kill(self.pid, signal.SIGTERM)

            async def gone() -> bool:
                return not self.alive

            await eventually(gone, deadline_s=grace_s)
        self.kill()

    def kill(self) -> None:
        """Kill the process and its children at once (SIGKILL). Idempotent."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)
        until = time.monotonic() + 5
        while _group_lives(self._process.pid) and time.monotonic() < until:
            time.sleep(POLL_S)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its sockets stay open and nobody answers; returns when that is so, 2 s at most."""
        os.killpg(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 2
        while _states_of(self.pid) - set("TZX") and time.monotonic() < deadline:
            time.sleep(0.002)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        os.killpg(self.pid, signal.SIGCONT)

    def log_tail(self, lines: int = 20) -> str:
        """Return the last *lines* that it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _spawn(self) -> None:
        if self.alive:
            raise LabError(f"{self.name} already runs")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )


def _group_lives(group: int) -> bool:
    """Say whether a process of *group* runs; orphans that wait for a lazy init to reap them do not count."""
    return bool(_states_of(group) - set("ZX"))


def _states_of(group: int) -> set[str]:
    """Return the kernel's state letters of the processes in *group*."""
    states = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group:
                states.add(state)
    return states


async def eventually(condition: Condition, *, deadline_s: float) -> bool:
    """Ask *condition* every 20 ms until it holds; False where it did not within *deadline_s*."""
    try:
        async with asyncio.timeout(deadline_s):
            while not await condition():  # noqa: ASYNC110 - what is outside this process sets no event
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return False
    return True


async def listens(port: int) -> bool:
    """Say whether something accepts connections on the loopback *port*."""
    try:
        async with asyncio.timeout(1):
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def answers(url: str, *, statuses: Sequence[int] = (200,)) -> bool:
    """Say whether a GET of *url* gives one of *statuses* within a second."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session,
            session.get(url) as response,
        ):
            return response.status in statuses
    except (aiohttp.ClientError, TimeoutError):
        return False

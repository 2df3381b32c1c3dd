"""A real HAProxy, run as systemd runs it: a master that reloads its worker without losing a request."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.servers.process import ServerProcess, eventually
from cluster.servers.tools import LabError, run


class Haproxy:
    """
    HAProxy on the configuration file *config*; everything of its own goes into *home*; *group* may ask its master.

    *home* needs a short path: a Unix socket's name has at most 107 bytes.
    """

    def __init__(
        self, config: Path, home: Path, *, env: Mapping[str, str] | None = None, group: str | None = None
    ) -> None:
        access = f"mode,660,group,{group}" if group else "mode,600"
        self.config = config
        self.master_socket = home / "master.sock"
        self.process = ServerProcess(
            ["haproxy", "-W", "-S", f"{self.master_socket},{access},level,operator", "-f", str(config)],
            log=home / "haproxy.log",
            env=env,
            # The master takes its workers with it; killed, it would leave them to notice by themselves.
            death_signal=signal.SIGTERM,
        )

    @property
    def pid(self) -> int:
        """The master's process id; it stays through reloads."""
        return self.process.pid

    async def start(self) -> None:
        """
        Check the configuration and start; returns when a worker answers.

        Raises:
            LabError: the configuration is refused, or no worker came up, with HAProxy's own words.
        """
        await run(["haproxy", "-c", "-f", str(self.config)], timeout_s=10)
        self.master_socket.unlink(missing_ok=True)
        await self.process.start(self._has_worker, deadline_s=10)

    async def reload(self, *, deadline_s: float = 10.0) -> None:
        """
        Make the master start a new worker; returns when it answers (the old one may live on for its clients).

        Raises:
            LabError: no new worker within *deadline_s*, as with a bad configuration; the old one goes on.
        """
        before = await self._worker_pid()
        if before is None:
            raise LabError(f"haproxy has no worker to replace:\n{self.process.log_tail()}")
        os.kill(self.pid, signal.SIGUSR2)

        async def replaced() -> bool:
            return await self._worker_pid() not in (None, before)

        if not await eventually(replaced, deadline_s=deadline_s):
            raise LabError(f"haproxy did not reload:\n{self.process.log_tail()}")

    def kill(self) -> None:
        """Kill master and workers at once, as a crash would."""
        self.process.kill()

    async def stop(self) -> None:
        """End it without waiting for its clients. Idempotent."""
        await self.process.stop()

    async def _has_worker(self) -> bool:
        return await self._worker_pid() is not None

    async def _worker_pid(self) -> int | None:
        """Ask the newest worker for its process id; None where none answers."""
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_unix_connection(self.master_socket)
                try:
                    writer.write(b"@1 show info\n")
                    # The master answers for sure only once it knows that no further command comes.
                    writer.write_eof()
                    answer = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None
        found = re.search(rb"^Pid: (\d+)$", answer, re.MULTILINE)
        return int(found[1]) if found else None


@asynccontextmanager
async def haproxy(config: Path, home: Path) -> AsyncIterator[Haproxy]:
    """Run HAProxy on *config* until the context ends."""
    server = Haproxy(config, home)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()

"""
Run a command while a Docker daemon answers: the one that runs, else one that is started and stopped again.

Used as ``python -m cluster.servers.with_docker COMMAND [ARGUMENT ...]``; several test processes then share the daemon.
"""

import asyncio
import signal
import sys

from cluster.servers.dockerd import docker_daemon
from cluster.servers.tools import LabError


async def _run(command: list[str]) -> int:
    async with docker_daemon():
        process = await asyncio.create_subprocess_exec(*command)
        # A terminal's Ctrl-C reaches the command by itself; it ends first, the daemon after it.
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_signal_handler(signal.SIGTERM, process.terminate)
        return await process.wait()


def main() -> int:
    """Return the command's exit status; 2 when there is no daemon to be had."""
    try:
        return asyncio.run(_run(sys.argv[1:]))
    except LabError as exc:
        print(exc, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""The test application as a plain process on loopback, for tests of the tools that need no container."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.servers.process import ServerProcess, listens
from cluster.servers.tools import run

_SOURCES = Path(__file__).resolve().parents[2] / "app" / "testapp"


async def compile_app(directory: Path) -> Path:
    """
    Compile the test application into *directory* with every warning an error, and return the program.

    Raises:
        LabError: no compiler, or it complained.
    """
    program = directory / "testapp"
    flags = "CFLAGS=-O2 -Wall -Wextra -Werror"
    await run(["make", "-s", "-C", str(_SOURCES), f"OUT={program}", flags], timeout_s=60)
    return program


@asynccontextmanager
async def run_app(program: Path, port: int, **env: str) -> AsyncIterator[ServerProcess]:
    """Run the application on a loopback *port* until the end of the block, or until it is ended inside."""
    log = program.parent / f"testapp-{port}.log"
    process = ServerProcess([str(program)], log=log, env={"HOST": "127.0.0.1", "PORT": str(port), **env})
    await process.start(lambda: listens(port), deadline_s=5)
    try:
        yield process
    finally:
        process.kill()

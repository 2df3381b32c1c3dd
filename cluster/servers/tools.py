"""Find the programs that set-up brought, and run short commands with a deadline; servers are process.py's."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# Debian keeps haproxy and dockerd where an ordinary user's PATH does not look.
SYSTEM_DIRS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class LabError(Exception):
    """The lab cannot do what a test asked for; the text says what is missing or what the server logged."""


def cache_dir() -> Path:
    """Return the directory that cluster/setup/setup.sh fills (same rule as there)."""
    if given := os.environ.get("TIDEGATE_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tidegate"


def search_path() -> str:
    """Return PATH for programs of the lab: the user's own first, then the system's, then the cache."""
    return os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_DIRS, str(cache_dir() / "bin")])


def tool(name: str) -> str:
    """
    Return the path of the program *name*.

    Raises:
        LabError: it is nowhere; says what brings it.
    """
    found = shutil.which(name, path=search_path())
    if found is None:
        raise LabError(f"{name} is not installed: run cluster/setup/setup.sh")
    return found


async def run(
    argv: Sequence[str], *, timeout_s: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """
    Run a command that ends by itself, with *env* beside our own environment, and return its standard output.

    Raises:
        LabError: it failed (with the end of what it printed) or did not end within *timeout_s*.
    """
    process = await asyncio.create_subprocess_exec(
        tool(argv[0]),
        *argv[1:],
        cwd=cwd,
        env={**os.environ, "PATH": search_path(), **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError as exc:
        raise LabError(f"{' '.join(argv)}: not done after {timeout_s:g} s") from exc
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
    if process.returncode != 0:
        last = (err + out).decode(errors="replace").strip()[-2000:]
        raise LabError(f"{' '.join(argv)}: exit status {process.returncode}: {last}")
    return out.decode(errors="replace")

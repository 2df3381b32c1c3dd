"""The ``consul`` program: which version it is, and whether it takes a configuration."""

import asyncio
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.adapters.host.subprocess import run_command
from agent.core.model.errors import FatalError
from agent.provision.consul_config import Version

PROGRAM_S = 20.0
_VERSION = re.compile(r"\bv(\d+)\.(\d+)\.")


async def consul_version(program: str = "consul") -> Version:
    """
    Return (major, minor) of the program.

    Raises:
        FatalError: it is not there, or says no version.
    """
    _, text = await _run(program, "version")
    found = _VERSION.search(text)
    if found is None:
        raise FatalError(f"{program} version: no version in its answer: {text.strip()[:200]}")
    return int(found[1]), int(found[2])


async def validate(config: Mapping[str, Any], program: str = "consul") -> str:
    """
    Let ``consul validate`` check a configuration; return its words.

    The file it reads holds secrets: it lies in a directory of its own, mode 0700, and is removed.

    Raises:
        FatalError: Consul refuses it, with its words.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-consul-") as home:
        file = Path(home) / "consul.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(config), encoding="utf-8")
        status, text = await _run(program, "validate", home)
    if status != 0:
        raise FatalError(f"{program} validate refuses the configuration: {text.strip()[-1000:]}")
    return text.strip().splitlines()[-1]


async def _run(program: str, *arguments: str) -> tuple[int, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as exc:
        raise FatalError(f"{program}: {exc.strerror}: install Consul, or name it with --consul") from exc
    try:
        output = await run_command(process, PROGRAM_S)
    except TimeoutError as exc:
        raise FatalError(f"{program} {arguments[0]}: no answer within {PROGRAM_S:g}s") from exc
    return process.returncode or 0, output.decode("utf-8", "replace")

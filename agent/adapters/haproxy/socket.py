"""Carries one line of commands to HAProxy's runtime or master socket and its replies back; a connection for each."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from agent.adapters.haproxy.parse import Info, parse_info, parse_proc, require_empty, split_replies
from agent.core.model.errors import HaproxyRefusedError, HaproxyUnavailableError

TIMEOUT_S = 5.0


async def ask(socket: Path, commands: Sequence[str]) -> tuple[Info, tuple[str, ...]]:
    """
    Send *commands* in one line to one worker.

    Returns: who answered, and a reply for each command.

    Raises:
        HaproxyUnavailableError: no whole answer within 5 s, or an old worker's.
    """
    first, *replies = split_replies(await _exchange(socket, ";".join(["show info", *commands])), len(commands) + 1)
    info = parse_info(first)
    if info.is_stopping:
        raise HaproxyUnavailableError(f"HAProxy's old worker {info.worker.pid} answered: a reload is under way")
    return info, tuple(replies)


async def change(socket: Path, commands: Sequence[str]) -> None:
    """
    Send *commands* that change something, in one line; nothing when there are none.

    A command that is refused does not keep HAProxy from doing the later ones.

    Raises:
        HaproxyRefusedError: one was refused.
        HaproxyUnavailableError: as :func:`ask`.
    """
    if not commands:
        return
    _, replies = await ask(socket, commands)
    for command, reply in zip(commands, replies, strict=True):
        require_empty(command, reply)


async def count_old_workers(master_socket: Path | None) -> int | None:
    """Count the workers of before a reload that still live; None when the master cannot be asked."""
    if master_socket is None:
        return None
    try:
        return len(parse_proc(await _exchange(master_socket, "show proc")).old_workers)
    except (HaproxyUnavailableError, HaproxyRefusedError):
        return None


async def _exchange(path: Path, line: str) -> str:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(f"{line}\n".encode("ascii"))
                await writer.drain()
                # The master answers for sure only once it knows that no further command comes.
                writer.write_eof()
                answer = await reader.read()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError as exc:
        raise HaproxyUnavailableError(f"HAProxy did not answer on {path} within {TIMEOUT_S:g} s") from exc
    except OSError as exc:
        raise HaproxyUnavailableError(f"HAProxy cannot be asked on {path}: {exc.strerror or exc}") from exc
    return answer.decode(errors="replace")

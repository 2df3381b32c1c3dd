"""A program that was started: its output within a deadline, and nothing of it left behind."""

import asyncio


async def run_command(process: asyncio.subprocess.Process, timeout_s: float, given: bytes | None = None) -> bytes:
    """
    Return what *process* writes to standard output, once it has ended; *given* goes to its standard input.

    However this ends, also cancelled, the process has ended too.

    Raises:
        TimeoutError: it has not ended within *timeout_s*, and was killed.
    """
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output

"""How an agent ends: the first signal asks, the second one does not."""

import asyncio
import os
import signal
from typing import NoReturn


class Stopped(Exception):  # noqa: N818 - not an error: the way out of the TaskGroup
    """A signal asked the process to end."""


async def until_signal() -> NoReturn:
    """
    Wait for SIGTERM or SIGINT; a second one ends the process at once.

    Raises:
        Stopped: a signal came.
    """
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def stop(number: int) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    await stopped.wait()
    raise Stopped

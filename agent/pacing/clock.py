"""
The one clock: every loop takes time from a :class:`Clock`, none from `time` or `asyncio` itself.

Deadlines by ``asyncio.timeout`` go by the event loop's time, which is the same in a process (:class:`SystemClock`)
and in the simulation (`tests/sim/virtual_time.py`).
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """What a loop knows of time."""

    def now(self) -> float:
        """Return monotonic seconds: only differences mean something."""

    def wall(self) -> float:
        """Return Unix seconds; may be stepped, and differs from host to host."""

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass; none for zero and below, but other tasks go first."""


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The host's clock."""

    def now(self) -> float:
        """Return seconds of ``CLOCK_MONOTONIC``."""
        return time.monotonic()

    def wall(self) -> float:
        """Return Unix seconds."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(seconds)

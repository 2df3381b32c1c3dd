"""Clocks of tests: time that passes when it is told to, in sleeps alone, or in a hurry."""

import asyncio
from dataclasses import dataclass, field

from agent.pacing.clock import SystemClock

HURRY_S = 0.02
UNIX_S = 1_700_000_000.0
"""What the wall clocks of tests begin with."""


@dataclass(slots=True)
class ManualClock:
    """Time that a test moves; sleeps are real ones, so that loops go on."""

    at: float = 1000.0

    def now(self) -> float:
        """Return the seconds that the test set."""
        return self.at

    def wall(self) -> float:
        """Return a Unix time that goes with them."""
        return UNIX_S + self.at

    async def sleep(self, seconds: float) -> None:
        """Sleep really, as the loop under test would."""
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class SleepingClock:
    """Time that passes only in sleeps, at once, and is written down."""

    at: float = 100.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        """Return the seconds slept so far, and those it began with."""
        return self.at

    def wall(self) -> float:
        """Return a Unix time that goes with them."""
        return UNIX_S + self.at

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass at once."""
        self.at += seconds
        self.slept.append(seconds)
        await asyncio.sleep(0)


class HurriedClock(ManualClock):
    """A manual clock whose sleeps take 20 ms at most: pauses keep their order and lose their length."""

    async def sleep(self, seconds: float) -> None:
        """Sleep briefly."""
        await asyncio.sleep(min(seconds, HURRY_S))


class HurriedSystemClock(SystemClock):
    """The host's clock, with sleeps of 20 ms at most."""

    async def sleep(self, seconds: float) -> None:
        """Sleep briefly."""
        await asyncio.sleep(min(seconds, HURRY_S))


class LoopClock(SystemClock):
    """The time of the running event loop, which may be a virtual one."""

    def now(self) -> float:
        """Return the loop's seconds."""
        return asyncio.get_running_loop().time()

"""The one way to ask the reconciler for another look: events only wake it, what counts is read anew."""

import asyncio


class WakeSignal:
    """A flag with the reasons it was raised for; many raises before a look are one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reasons: set[str] = set()

    def call(self, reason: str) -> None:
        """Ask for a look; *reason* is for the debug log."""
        self._reasons.add(reason)
        self._event.set()

    async def wait(self, timeout_s: float) -> frozenset[str]:
        """Wait until called, *timeout_s* at most; return the reasons and lower the flag."""
        try:
            async with asyncio.timeout(max(timeout_s, 0.0)):
                await self._event.wait()
        except TimeoutError:
            return frozenset()
        self._event.clear()
        reasons = frozenset(self._reasons)
        self._reasons.clear()
        return reasons

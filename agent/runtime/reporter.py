"""
Write the host's report to Consul: the latest wins, equal ones are dropped, a failed write is tried again.

Also keeps the host's Consul services registered: their metadata follows the report.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from agent.core.errors import TidegateError
from agent.core.report import NodeReport

log = structlog.get_logger()
WRITE_EVERY_S = 1.0
"""Reports are written this often at most; what came between is not written."""
AGAIN_EVERY_S = 60.0
"""Service registrations are repeated: a local Consul agent that lost its data has forgotten them."""
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 15.0

Write = Callable[[NodeReport], Awaitable[None]]


@dataclass(slots=True)
class Reporter:
    """
    Carries reports to Consul, off the hot path.

    Args:
        write: writes one report (the key).
        register: registers the services by the report.
    """

    write: Write
    register: Write
    latest: NodeReport | None = None
    _event: asyncio.Event = field(default_factory=asyncio.Event)
    _written: NodeReport | None = None
    _registered: tuple[str, ...] = ()
    _registered_at: float = float("-inf")
    _is_failing: bool = False

    def publish(self, report: NodeReport) -> None:
        """Take the newest report; never blocks."""
        if report != self.latest:
            self.latest = report
            self._event.set()

    def forget(self) -> None:
        """Write and register again though nothing changed: Consul was away, or its state went back."""
        self._written, self._registered = None, ()
        self._event.set()

    async def run(self) -> None:
        """Write for ever."""
        pause = RETRY_FIRST_S
        while True:
            try:
                async with asyncio.timeout(AGAIN_EVERY_S):
                    await self._event.wait()
            except TimeoutError:
                self._registered = ()
            self._event.clear()
            if await self._flush():
                pause = RETRY_FIRST_S
                await asyncio.sleep(WRITE_EVERY_S)
            else:
                self._event.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_MAX_S)

    async def last(self, deadline_s: float) -> None:
        """Write what is not written yet, once, within *deadline_s*; for the shutdown."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._flush()
        except TimeoutError:
            log.warning("report.lost", reason=f"not written within {deadline_s} s")

    async def _flush(self) -> bool:
        report = self.latest
        if report is None:
            return True
        try:
            if report != self._written:
                await self.write(report)
                self._written = report
            services = service_words(report)
            if services != self._registered:
                await self.register(report)
                self._registered = services
        except TidegateError as exc:
            if not self._is_failing:
                log.warning("report.failed", error=str(exc))
            self._is_failing = True
            return False
        if self._is_failing:
            log.info("report.recovered")
        self._is_failing = False
        return True


def service_words(report: NodeReport) -> tuple[str, ...]:
    """Return what the services' metadata says of a report: release, image, slot, readiness."""
    serving = [(slot, shown) for slot, shown in sorted(report.slots.items()) if shown.is_up]
    slot, shown = serving[0] if serving else ("", None)
    release, image = (shown.release, shown.image) if shown else ("", "")
    return (release, image, str(slot), report.instance, str(report.is_ready))

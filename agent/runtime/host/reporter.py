"""
Write the host's report to Consul: the latest wins, equal ones are dropped, a failed write is tried again.

Countdowns and open-request counts are rate-limited; state changes are written at once.

Also keeps the host's Consul services registered: their metadata follows the report.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from agent.core.model.errors import PermanentError, TidegateError
from agent.core.model.report import NodeReport, SlotReport
from agent.pacing.backoff import Backoff
from agent.pacing.clock import Clock, SystemClock

log = structlog.get_logger()
WRITE_EVERY_S = 1.0
"""Reports are written this often at most; what came between is not written."""
MOVING_EVERY_S = 10.0
"""As above, where nothing happened but time: a countdown went on, the requests of a slot that empties came and went."""
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
    clock: Clock = field(default_factory=SystemClock)
    latest: NodeReport | None = None
    _event: asyncio.Event = field(default_factory=asyncio.Event)
    _written: NodeReport | None = None
    _written_at: float = float("-inf")
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
        backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        while True:
            if (due_in_s := self._due_in()) > 0:
                await self._changed(due_in_s)
            elif await self._flush():
                backoff.reset()
                await self.clock.sleep(WRITE_EVERY_S)
            else:
                await self.clock.sleep(backoff.next())

    async def last(self, deadline_s: float) -> None:
        """Write what is not written yet, once, within *deadline_s*; for the shutdown."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._flush()
        except TimeoutError:
            log.warning("report.lost", reason=f"not written within {deadline_s} s")

    async def _changed(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()

    def _due_in(self) -> float:
        """Return the seconds until something must be written; 0 when it is time."""
        now, report = self.clock.now(), self.latest
        if report is None:
            return AGAIN_EVERY_S
        if self._written is None or is_news(report, self._written) or service_text(report) != self._registered:
            return 0.0
        due = self._registered_at + AGAIN_EVERY_S
        if report != self._written:
            due = min(due, self._written_at + MOVING_EVERY_S)
        return max(0.0, due - now)

    async def _flush(self) -> bool:
        """Write and register what is due; a token that may not do the one may do the other."""
        report, errors = self.latest, list[str]()
        if report is None:
            return True
        for step in (self._write, self._register):
            try:
                await step(report)
            except PermanentError as exc:
                errors.append(str(exc))
            except TidegateError as exc:
                errors.append(str(exc))
                break
        if errors and not self._is_failing:
            log.warning("report.failed", error="; ".join(errors))
        elif self._is_failing and not errors:
            log.info("report.recovered")
        self._is_failing = bool(errors)
        return not errors

    async def _write(self, report: NodeReport) -> None:
        if report != self._written:
            await self.write(report)
            self._written, self._written_at = report, self.clock.now()

    async def _register(self, report: NodeReport) -> None:
        services = service_text(report)
        if services != self._registered or self.clock.now() - self._registered_at >= AGAIN_EVERY_S:
            await self.register(report)
            self._registered, self._registered_at = services, self.clock.now()


def is_news(report: NodeReport, written: NodeReport) -> bool:
    """
    Whether more happened than that time passed.

    A request on a slot that was reported idle is news: the fleet may be about to call the slot empty.
    """
    if _without_what_moves(report) != _without_what_moves(written):
        return True
    return any(_is_idle(written.slots[slot]) and not _is_idle(shown) for slot, shown in report.slots.items())


def _without_what_moves(report: NodeReport) -> NodeReport:
    slots = {
        slot: shown.replace(reason="", open_requests=None, last_request_age_s=None)
        for slot, shown in report.slots.items()
    }
    return report.replace(notes=(), slots=slots)


def _is_idle(shown: SlotReport) -> bool:
    age = shown.last_request_age_s
    return not shown.open_requests and age is not None and age >= MOVING_EVERY_S


def service_text(report: NodeReport) -> tuple[str, ...]:
    """Return what the services' metadata says of a report: release, image, slot, readiness."""
    serving = [(slot, shown) for slot, shown in sorted(report.slots.items()) if shown.is_up]
    slot, shown = serving[0] if serving else ("", None)
    release, image = (shown.release, shown.image) if shown else ("", "")
    return (release, image, str(slot), report.instance, str(report.is_ready))

"""When a report goes to Consul, when not, and what happens while it cannot."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from agent.core.model.errors import ConsulForbiddenError, ConsulUnavailableError, TidegateError
from agent.core.model.names import SlotName
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.states import SlotPhase
from agent.runtime.host.reporter import AGAIN_EVERY_S, MOVING_EVERY_S, Reporter, is_news
from tests.clocks import LoopClock
from tests.runtime.host.rig import cancelled_in_the_end
from tests.sim.virtual_time import VirtualLoop


@dataclass
class Consul:
    """Notes what was written, and when."""

    writes: list[tuple[float, NodeReport]] = field(default_factory=list)
    registrations: list[tuple[float, NodeReport]] = field(default_factory=list)
    write_error: TidegateError | None = None
    hangs: bool = False
    tries: int = 0

    async def write(self, report: NodeReport) -> None:
        self.tries += 1
        if self.hangs:
            await asyncio.sleep(3600)
        if self.write_error is not None:
            raise self.write_error
        self.writes.append((now(), report))

    async def register(self, report: NodeReport) -> None:
        self.registrations.append((now(), report))


def now() -> float:
    return asyncio.get_running_loop().time()


def a_report(phase: SlotPhase = SlotPhase.SERVING, **changes: object) -> NodeReport:
    slots = {slot: SlotReport(phase=SlotPhase.EMPTY) for slot in SlotName}
    report = NodeReport(
        app="shop", node="web-1", instance="i", agent="1", phase=phase, summary=str(phase), is_ready=True, slots=slots
    )
    return report.model_copy(update=changes)


def draining(**changes: object) -> NodeReport:
    slot = SlotReport(phase=SlotPhase.DRAINING).model_copy(update=changes)
    return a_report().model_copy(update={"slots": {**a_report().slots, SlotName.BLUE: slot}})


@asynccontextmanager
async def running(consul: Consul) -> AsyncIterator[Reporter]:
    reporter = Reporter(consul.write, consul.register, LoopClock())
    async with cancelled_in_the_end() as group:
        group.create_task(reporter.run())
        yield reporter


@pytest.fixture(name="virtual")
def _virtual() -> object:
    """Run a coroutine in virtual time."""

    def run(scenario: object) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(scenario)  # type: ignore[arg-type]

    return run


class Virtual:
    """Type of the fixture above."""

    def __call__(self, scenario: object) -> None: ...


def test_the_latest_wins_and_equal_ones_are_dropped(virtual: Virtual) -> None:
    """Many reports within a second are one write; the same again is none."""

    async def scenario() -> None:
        consul = Consul()
        async with running(consul) as reporter:
            for phase in (SlotPhase.PULLING, SlotPhase.STARTING, SlotPhase.CHECKING):
                reporter.publish(a_report(phase))
            await asyncio.sleep(2)
            reporter.publish(a_report(SlotPhase.CHECKING))
            await asyncio.sleep(5)
            assert [report.phase for _, report in consul.writes] == [SlotPhase.CHECKING]
            reporter.publish(a_report(SlotPhase.STAGED))
            await asyncio.sleep(0.1)
            assert len(consul.writes) == 2
            assert len(consul.registrations) == 1

    virtual(scenario())


def test_a_countdown_costs_few_writes(virtual: Virtual) -> None:
    """A minute of `at most 43s` in reasons and notes is six writes, not sixty; what happens then is written at once."""

    async def scenario() -> None:
        consul = Consul()
        async with running(consul) as reporter:
            for left in range(60, 0, -1):
                slots = {slot: SlotReport(phase=SlotPhase.CHECKING, reason=f"at most {left}s") for slot in SlotName}
                reporter.publish(a_report(slots=slots, notes=(f"waits for Consul, at most {left}s",)))
                await asyncio.sleep(1)
            assert 5 <= len(consul.writes) <= 7
            last, before = consul.writes[-1][0], now()
            reporter.publish(a_report(SlotPhase.FAILED))
            await asyncio.sleep(1.1)
            assert consul.writes[-1][0] - before <= 1.1
            assert last <= before

    virtual(scenario())


def test_the_last_word_of_a_countdown_is_written(virtual: Virtual) -> None:
    """What moved after a write is written ten seconds after it, though nothing else happens."""

    async def scenario() -> None:
        consul = Consul()
        async with running(consul) as reporter:
            reporter.publish(draining(last_request_age_s=0))
            await asyncio.sleep(3)
            reporter.publish(draining(last_request_age_s=5))
            await asyncio.sleep(2)
            assert len(consul.writes) == 1
            await asyncio.sleep(MOVING_EVERY_S)
            (first, _), (second, report) = consul.writes
            assert second - first == pytest.approx(MOVING_EVERY_S, abs=0.1)
            assert report.slots[SlotName.BLUE].last_request_age_s == 5

    virtual(scenario())


def test_a_request_after_a_reported_idle_is_news() -> None:
    """The fleet may be about to call the slot empty; requests that come and go are not."""
    idle = draining(open_requests=0, last_request_age_s=60)
    assert is_news(draining(open_requests=1, last_request_age_s=0), idle)
    assert is_news(draining(open_requests=0, last_request_age_s=0), idle)
    assert not is_news(draining(open_requests=0, last_request_age_s=65), idle)
    busy = draining(open_requests=3, last_request_age_s=0)
    assert not is_news(draining(open_requests=0, last_request_age_s=5), busy)
    assert not is_news(draining(open_requests=2, last_request_age_s=0), busy)


def test_a_failed_write_is_tried_again_and_told_once(virtual: Virtual) -> None:
    """With growing pauses; the newest report is what is written in the end."""

    async def scenario() -> None:
        consul = Consul(write_error=ConsulUnavailableError("Consul: refused"))
        async with running(consul) as reporter:
            reporter.publish(a_report(SlotPhase.PULLING))
            await asyncio.sleep(60)
            assert 5 <= consul.tries <= 10
            assert consul.registrations == []
            reporter.publish(a_report(SlotPhase.SERVING))
            consul.write_error = None
            await asyncio.sleep(16)
            assert [report.phase for _, report in consul.writes] == [SlotPhase.SERVING]

    with capture_logs() as logs:
        virtual(scenario())
    assert [line["event"] for line in logs] == ["report.failed", "report.recovered"]


def test_a_token_that_may_not_write_the_report_may_register(virtual: Virtual) -> None:
    """One missing right does not take the host out of Consul's DNS."""

    async def scenario() -> None:
        consul = Consul(write_error=ConsulForbiddenError("Permission denied"))
        async with running(consul) as reporter:
            reporter.publish(a_report())
            await asyncio.sleep(1)
            assert (consul.writes, len(consul.registrations)) == ([], 1)

    virtual(scenario())


def test_services_are_registered_again_each_minute_whatever_the_reports_do(virtual: Virtual) -> None:
    """A local Consul agent that lost its data has forgotten them; a busy host repeats them as well."""

    async def scenario() -> None:
        for every_s in (7, 3600):
            consul = Consul()
            async with running(consul) as reporter:
                for age in range(0, 4 * int(AGAIN_EVERY_S), 7):
                    reporter.publish(draining(last_request_age_s=age if every_s == 7 else 0))
                    await asyncio.sleep(7)
            assert 4 <= len(consul.registrations) <= 5

    virtual(scenario())


def test_what_was_forgotten_is_written_again(virtual: Virtual) -> None:
    """Consul was away or restored: report and services, though nothing changed."""

    async def scenario() -> None:
        consul = Consul()
        async with running(consul) as reporter:
            reporter.publish(a_report())
            await asyncio.sleep(3)
            reporter.forget()
            await asyncio.sleep(3)
            assert (len(consul.writes), len(consul.registrations)) == (2, 2)

    virtual(scenario())


def test_the_last_report_is_written_within_its_deadline(virtual: Virtual) -> None:
    """A Consul that hangs does not hold the end of the process up; it is said that the report was lost."""

    async def scenario() -> None:
        consul = Consul()
        reporter = Reporter(consul.write, consul.register, LoopClock())
        await reporter.last(2)
        reporter.publish(a_report())
        await reporter.last(2)
        assert len(consul.writes) == 1
        consul.hangs = True
        reporter.publish(a_report(SlotPhase.STAGED))
        began = now()
        await reporter.last(2)
        assert now() - began == pytest.approx(2, abs=0.1)

    with capture_logs() as logs:
        virtual(scenario())
    assert [line["event"] for line in logs] == ["report.lost"]

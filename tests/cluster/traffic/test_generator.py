"""The traffic generator as a process, against the test application: it keeps its rate, and sees what goes wrong."""

import asyncio
import time
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.servers.ports import free_port
from cluster.servers.process import listens
from cluster.servers.traffic_app import compile_app, run_app
from cluster.traffic.clients import Mix
from cluster.traffic.generator import Traffic, TrafficBrokenError
from cluster.traffic.record import Fault, Kind, Outcome
from cluster.traffic.verdict import Event, EventKind, Rules, judge

pytestmark = [pytest.mark.real, pytest.mark.traffic, pytest.mark.slow]

SHORT = Mix(
    slow_ms=600,
    stream_ms=1000,
    websocket_s=0.9,
    stream_rate=10,
    websocket_rate=10,
    visit_every_s=0.2,
    visit_min_s=0.6,
    visit_max_s=2,
)
RULES = Rules(visit_idle_s=4)


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="program")
async def _program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test application, compiled without a warning."""
    return await compile_app(tmp_path_factory.mktemp("testapp"))


def activated(version: str, at: float) -> Event:
    return Event(EventKind.ACTIVATED, version, at)


def assert_counts_agree(outcome: Outcome) -> None:
    """Every request was either answered whole or failed; some failed after the head of an answer."""
    failed = sum(outcome.failed_by_fault.values())
    assert len(outcome.samples) <= outcome.total <= len(outcome.samples) + failed


async def test_five_kinds_at_once_at_the_promised_rate(program: Path, port: int) -> None:
    """At least 300 requests a second of every kind, none failed, at well under one core."""
    started = time.monotonic()
    async with run_app(program, port, VERSION="a"), Traffic(f"127.0.0.1:{port}", mix=SHORT) as traffic:
        await asyncio.sleep(3)
        snapshot = traffic.snapshot()
        outcome = await traffic.stop()
    assert outcome.failures == ()
    assert outcome.rate >= 300
    assert outcome.cpu_s < 0.75 * outcome.duration_s
    assert min(outcome.requests[kind] for kind in Kind) > 10
    assert snapshot.failed == 0
    assert 0 < snapshot.requests < outcome.total
    assert_counts_agree(outcome)
    verdict = judge(outcome, [activated("a", started)], RULES)
    assert verdict.is_clean
    assert verdict.visitors >= SHORT.visitors


async def test_a_server_that_dies_is_seen_by_every_kind(program: Path, port: int) -> None:
    """Killed in mid-run and started again: nobody connects meanwhile, and what was open is cut."""
    async with Traffic(f"127.0.0.1:{port}", mix=SHORT) as traffic:
        async with run_app(program, port, VERSION="a") as app:
            await asyncio.sleep(1)
            app.kill()
            await asyncio.sleep(0.3)
        async with run_app(program, port, VERSION="a"):
            await asyncio.sleep(0.5)
            outcome = await traffic.stop()
    assert outcome.failed[Kind.NEW][Fault.REFUSED] > 10
    assert outcome.failed[Kind.SLOW][Fault.RESET] > 0
    assert outcome.failed[Kind.STREAM][Fault.CUT] > 0
    assert outcome.failed[Kind.WEBSOCKET][Fault.CUT] > 0
    assert set(outcome.failed) == set(Kind)
    assert len(outcome.failures) == sum(outcome.failed_by_fault.values())
    assert_counts_agree(outcome)
    assert judge(outcome, [activated("a", 0)], RULES).streams_cut > 0


async def test_a_server_replaced_without_care_moves_visitors(program: Path, port: int) -> None:
    """The next version in the place of the first: the verdict says who was moved unasked."""
    async with Traffic(f"127.0.0.1:{port}", mix=SHORT) as traffic:
        async with run_app(program, port, VERSION="a"):
            await asyncio.sleep(0.8)
        replaced = time.monotonic()
        async with run_app(program, port, VERSION="b"):
            await asyncio.sleep(0.8)
            outcome = await traffic.stop()
    verdict = judge(outcome, [activated("a", 0), activated("b", replaced)], RULES)
    assert verdict.moved_unasked > 0
    assert verdict.newcomers.keys() == {"a", "b"}
    assert (verdict.early, verdict.stale) == (0, 0)
    assert not verdict.is_clean


async def test_two_servers_without_stickiness_send_visitors_back_and_forth(program: Path, port: int) -> None:
    """Two targets are a balancer that keeps nobody anywhere: the verdict sees it."""
    other = free_port()
    async with (
        run_app(program, port, VERSION="a"),
        run_app(program, other, VERSION="b"),
        Traffic(f"127.0.0.1:{port}", f"127.0.0.1:{other}", mix=SHORT) as traffic,
    ):
        await asyncio.sleep(1)
        outcome = await traffic.stop()
    assert outcome.failures == ()
    assert judge(outcome, [activated("a", 0), activated("b", 0)], RULES).moved_back_and_forth > 0


async def test_a_generator_that_cannot_start_says_why() -> None:
    """The complaint of the program reaches the test."""
    with pytest.raises(TrafficBrokenError, match="nowhere"):
        async with Traffic("nowhere"):
            pass


@pytest.mark.parametrize(("on_term", "is_answered"), [("finish", True), ("at-once", False)])
async def test_the_application_stops_as_it_is_told(program: Path, port: int, on_term: str, is_answered: bool) -> None:
    """On SIGTERM it finishes what is in flight and lets nobody in, or dies at once."""
    async with run_app(program, port, VERSION="a", ON_TERM=on_term) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /slow?ms=400 HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            stopping = group.create_task(app.stop(grace_s=3))
            await asyncio.sleep(0.1)
            assert not await listens(port)
            answer = await reader.read()
            await stopping
        writer.close()
    assert (b"slept 400 ms" in answer) is is_answered
    assert app.log_tail(1) == ("stopped" if is_answered else "stopping at once")

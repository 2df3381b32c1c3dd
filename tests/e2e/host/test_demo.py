"""The demo: its verdict, and the whole of it in brief."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.demo.result import Result, phases_of
from cluster.servers.process import listens
from cluster.traffic.record import Fault, Kind, Outcome, Sample
from cluster.traffic.verdict import Event, EventKind, Rules, judge
from tests.e2e.demo_line import KEYS

ROOT = Path(__file__).resolve().parents[3]


def _outcome(*samples: Sample, failed: dict[Kind, dict[Fault, int]] | None = None) -> Outcome:
    return Outcome(0.0, 9.0, 10.0, 0.0, 1.0, 0.0, {Kind.VISITOR: len(samples)}, failed or {}, (), samples)


def _result(outcome: Outcome, *, refusal: str = "unhealthy", problem: str = "") -> Result:
    events = [Event(EventKind.ACTIVATED, "a", 0.0), Event(EventKind.ACTIVATED, "b", 3.0)]
    verdict = judge(outcome, events, Rules(visit_idle_s=4))
    return Result(outcome, verdict, phases_of({"stage": 2.0}, outcome, 3.0), refusal, problem)


def _answer(at: float, version: str, visitor: int = 1) -> Sample:
    return Sample(at, at + 0.1, at, Kind.VISITOR, version, visitor)


def test_the_last_line_has_exactly_the_promised_keys() -> None:
    """A program that reads the last line finds every key, and the switch as the traffic saw it."""
    told = json.loads(_result(_outcome(_answer(1, "a"), _answer(3.4, "b", 2))).to_json())
    assert list(told) == KEYS
    assert told["failed"] == {}
    assert told["phases"] == {"stage": 2.0, "switch": 0.5}
    assert told["bad_image_refused"] is True


def test_a_clean_run_has_no_shortcomings() -> None:
    """Nothing failed, nobody moved, the bad image refused: success."""
    assert _result(_outcome(_answer(1, "a"), _answer(3.4, "b", 2))).shortcomings == ()


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (_result(_outcome(_answer(1, "a")), refusal=""), "not refused"),
        (_result(_outcome(_answer(1, "a")), problem="b was never staged"), "b was never staged"),
        (_result(_outcome(_answer(3.4, "a"), _answer(4.0, "b"))), "moved in mid-visit"),
        (_result(_outcome(_answer(1.0, "b"))), "not active yet"),
        (_result(_outcome(_answer(1, "a"), failed={Kind.NEW: {Fault.RESET: 2}})), "2 requests failed: 2 reset"),
        (_result(_outcome(_answer(1, "a"), failed={Kind.STREAM: {Fault.CUT: 1}})), "were cut"),
    ],
)
def test_whatever_is_not_as_promised_is_said(result: Result, words: str) -> None:
    """Each way to fail has its sentence."""
    assert any(words in sentence for sentence in result.shortcomings)


async def _demo(**env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cluster.demo.one_host", "--brief"),
        cwd=ROOT,
        env={**os.environ, "KEEP": "", **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.real
@pytest.mark.traffic
@pytest.mark.slow
async def test_the_demo_loses_nothing_and_refuses_the_bad_image() -> None:
    """The whole demo, in brief: exit status 0, a clean last line, no word on standard error."""
    process = await _demo()
    try:
        async with asyncio.timeout(90):
            out, err = await process.communicate()
    finally:
        await _end(process)
    told = json.loads(out.decode().splitlines()[-1])
    assert process.returncode == 0, out.decode()
    assert err == b""
    assert list(told) == KEYS
    assert told["requests"] > 3000
    assert told["visitors"] > 40
    assert told["failed"] == {}
    assert list(told["phases"]) == ["boot", "stage", "switch", "drain", "retire", "refuse"]
    assert told["bad_image_refused"] is True


@pytest.mark.real
@pytest.mark.traffic
@pytest.mark.slow
async def test_a_demo_that_cannot_start_says_why_in_one_line() -> None:
    """Without Docker there is one line that says so, and exit status 2."""
    process = await _demo(DOCKER_HOST="unix:///nonexistent.sock")
    try:
        async with asyncio.timeout(30):
            _out, err = await process.communicate()
    finally:
        await _end(process)
    assert process.returncode == 2
    assert err.decode() == "demo: no Docker daemon answers at unix:///nonexistent.sock\n"


@pytest.mark.real
@pytest.mark.traffic
@pytest.mark.slow
async def test_an_interrupted_demo_leaves_nothing() -> None:
    """Ctrl-C in the middle ends every server, and says so."""
    process = await _demo()
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            site = 0
            while b"booted" not in (line := await process.stdout.readline()):
                found = re.search(rb"site at http://127\.0\.0\.1:(\d+)/", line)
                site = int(found[1]) if found else site
            process.send_signal(signal.SIGINT)
            err = await process.stderr.read()
            await process.wait()
    finally:
        await _end(process)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == "stopped; nothing of it is left"
    assert not await listens(site)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let a demo clean up that a failed test has left."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await process.communicate()

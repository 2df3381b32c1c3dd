"""
What a deploy costs: the agent's own time in it, and requests; "stop old, start new" beside it loses some.

Own time is from writing stage/image to the staged report, and from writing active/image to the report that it serves,
less what others take: the pull and the container's start (from the agent's log: from asking Docker to its answer), and
the health window (`min_healthy_time`). What is left contains our probe's and HAProxy's first checks, too.
"""

import asyncio
import json
import time
from datetime import datetime
from statistics import median
from typing import Any

from agent.core.model.states import SlotPhase
from bench.figures import Figure, at_most, shown
from bench.rig import Rig, rig
from cluster.scenarios.host import slot_of
from cluster.traffic.clients import Mix
from cluster.traffic.generator import Traffic
from cluster.traffic.record import Outcome

ROUNDS = 5
WINDOW_S = 2.0
OWN_MS_MOST = 300.0
MIX = Mix(
    new_rate=80,
    keepalive_rate=80,
    slow_rate=3,
    slow_ms=1000,
    stream_rate=2,
    stream_ms=2000,
    websocket_rate=1,
    websocket_s=2,
    visitors=20,
    visit_min_s=2,
    visit_max_s=4,
)


async def measure() -> list[Figure]:
    """Measure own times without load, then what two ways to deploy lose under the same load."""
    knobs = {"min_healthy_time": f"{WINDOW_S:g}s", "bake_time": "500ms", "visit_idle": "2s", "keep_releases": "1"}
    async with rig(knobs) as made:
        own = [await _own_time(made, *_turn(made, number)) for number in range(ROUNDS)]
        serving, other = _turn(made, ROUNDS)
        ours = await _ours(made, serving, other)
        theirs = await _stop_and_start(made, other, serving)
    return [
        at_most(f"a deploy: the agent's own time, median of {ROUNDS}", median(own) * 1e3, "ms", OWN_MS_MOST),
        at_most("a deploy under load: requests lost", _lost(ours), "", 0),
        shown("a deploy under load: requests", ours.total, ""),
        shown("stop old, start new: requests lost", _lost(theirs), ""),
        shown("stop old, start new: requests", theirs.total, ""),
    ]


def _turn(made: Rig, number: int) -> tuple[str, str]:
    """Return what serves in this round, and what is deployed."""
    return (made.a, made.b) if number % 2 == 0 else (made.b, made.a)


async def _own_time(made: Rig, old: str, new: str) -> float:
    logged = len(made.host.agent.log.read_text())
    began = time.monotonic()
    await made.put("stage", new)
    await made.until(new, SlotPhase.STAGED)
    staged = time.monotonic() - began
    events = [json.loads(line) for line in made.host.agent.log.read_text()[logged:].splitlines()]
    began = time.monotonic()
    await made.put("active", new)
    await made.until(new, SlotPhase.SERVING)
    switched = time.monotonic() - began
    await made.until(old, None)
    return staged + switched - _pull_s(events) - _start_s(events) - WINDOW_S


def _pull_s(events: list[dict[str, Any]]) -> float:
    return float(next(event["duration_s"] for event in events if event["event"] == "image.pulled"))


def _start_s(events: list[dict[str, Any]]) -> float:
    asked = next(event for event in events if any("run " in action for action in event.get("actions", ())))
    started = next(event for event in events if event["event"] == "container.started")
    return (datetime.fromisoformat(started["timestamp"]) - datetime.fromisoformat(asked["timestamp"])).total_seconds()


async def _ours(made: Rig, old: str, new: str) -> Outcome:
    async with Traffic(made.host.target, mix=MIX) as traffic:
        await asyncio.sleep(2)
        await made.put("stage", new)
        await made.until(new, SlotPhase.STAGED)
        await made.put("active", new)
        await made.until(old, None)
        await asyncio.sleep(2)
        return await traffic.stop()


async def _stop_and_start(made: Rig, old: str, new: str) -> Outcome:
    """Do what a script does: stop the old container, start the new one in its place."""
    report = await made.host.report()
    assert report is not None
    slot = slot_of(report, old)
    assert slot is not None
    app, docker = made.host.settings.app, made.host.docker
    await made.host.stop_agent()
    await docker.cli("pull", "-q", new)
    async with Traffic(made.host.target, mix=MIX) as traffic:
        await asyncio.sleep(2)
        await docker.cli("stop", "-t", "5", report.slots[slot].container)
        where = [f"--network={app.network_name}", f"--ip={app.address(slot)}"]
        new_id = (await docker.cli("run", "-d", "--rm", *where, new)).strip()
        await asyncio.sleep(5)
        outcome = await traffic.stop()
    await docker.cli("rm", "-f", new_id)
    return outcome


def _lost(outcome: Outcome) -> int:
    return sum(outcome.failed_by_fault.values())

"""Whatever befalls a host, Consul or the registry in mid-rollout: visitors do not notice, and the rollout ends well."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from agent.core.model.record import Phase
from agent.core.rollout.decision import Decision
from cluster.machine import Machine, until_ready
from cluster.scenarios.cluster import ClusterStory, Shelf
from cluster.servers.process import eventually
from tests.e2e.cluster.fault_injection import Strike, nothing_lost, suffer
from tests.e2e.cluster.faults import DISASTERS, SCENES, Disaster, Scene

pytestmark = [
    pytest.mark.real,
    pytest.mark.alone,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
FORWARD = (Phase.STAGING, Phase.AWAITING_PROMOTION, Phase.RETIRING)
PATIENT = ("--progress-deadline", "4m", "--lost-after", "3m")
"""Consul is away for a minute here, and hosts are held back for as long: neither shall end a rollout."""
WATCHDOG = "[Service]\nWatchdogSec=8\n"
each_disaster = pytest.mark.parametrize("disaster", DISASTERS, ids=lambda disaster: disaster.name.replace(" ", "-"))
each_scene = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene[0].name.replace(" ", "-") + "...")


@each_scene
async def test_in_switching(story: ClusterStory, shelf: Shelf, scene: Scene) -> None:
    """Each disaster has a host that has not switched: its agent is frozen until the disaster comes."""
    target = shelf.other(story.version)
    held = _held(story, scene)
    async with story.traffic() as traffic:
        await _shorten_watchdog(held)
        await story.deploy(target, "--manual", "--wait", "promotion", *PATIENT)
        await _freeze(held)
        promoted_at = time.monotonic()
        promoted = await story.command("promote", "--reason", "a test", "--detach")
        assert promoted.code == 0, promoted.err
        await story.until_phase(Phase.SWITCHING)
        strikes: list[Strike] = []
        for web, disaster in held:
            assert (await story.until(lambda _: True)).phase is Phase.SWITCHING
            strikes.append(await suffer(story, web, disaster))
            await story.until_serves(web, target)
        await story.until_phase(Phase.SUCCESSFUL, deadline_s=120)
        ended_at = time.monotonic()
        outcome = await traffic.stop()
    for each in strikes:
        each.was_told()
    verdict = await story.verdict(outcome, settle_s=ended_at - promoted_at + 10)
    assert outcome.rate > 100, "so few requests prove nothing"
    nothing_lost(outcome, verdict, strikes)


@pytest.mark.full
@each_scene
@pytest.mark.parametrize("phase", [Phase.READY, Phase.AWAITING_PROMOTION, Phase.BAKING], ids=str)
async def test_in_a_phase_that_waits(story: ClusterStory, shelf: Shelf, phase: Phase, scene: Scene) -> None:
    """All of a scene befalls one rollout, which then goes on as the operator says."""
    target = shelf.other(story.version)
    held = _held(story, scene)
    way = ("--manual",) if phase is Phase.READY else ("--canary", "1", "--bake-time", "10m", "--drain-timeout", "15m")
    async with story.traffic() as traffic:
        await _shorten_watchdog(held)
        began_at = time.monotonic()
        await story.deploy(target, *way, "--wait", "promotion", *PATIENT)
        if phase is Phase.BAKING:
            await story.command("promote", "--reason", "a test", "--detach")
            await story.until_phase(Phase.BAKING)
        await _freeze(held)
        strikes: list[Strike] = []
        for web, disaster in held:
            assert (await story.until(lambda _: True)).phase is phase
            strikes.append(await suffer(story, web, disaster))
            await until_ready(web, deadline_s=90)
        onward = "promote" if phase is Phase.READY else "rollback"
        await _insist(story, onward)
        await story.until_phase(Phase.SUCCESSFUL if phase is Phase.READY else Phase.ROLLED_BACK, deadline_s=150)
        ended_at = time.monotonic()
        outcome = await traffic.stop()
    for each in strikes:
        each.was_told()
    nothing_lost(outcome, await story.verdict(outcome, settle_s=ended_at - began_at + 10), strikes)


@pytest.mark.full
@each_disaster
@pytest.mark.parametrize("phase", [Phase.STAGING, Phase.RETIRING, Phase.ROLLING_BACK], ids=str)
async def test_in_a_phase_that_passes(story: ClusterStory, shelf: Shelf, phase: Phase, disaster: Disaster) -> None:
    """Forward by a canary that is promoted, or taken back; before the commit it may end as aborted, too."""
    target = shelf.other(story.version)
    ((web, _),) = held = _held(story, (disaster,))
    async with story.traffic() as traffic:
        await _shorten_watchdog(held)
        began_at = time.monotonic()
        await story.deploy(target, "--canary", "1", "--detach", *PATIENT)
        await _advance(story, phase)
        if "watchdog" in disaster.name:
            await web.freeze()
        strike = await suffer(story, web, disaster)
        strike.was_shown()
        ended = await _finish(story)
        await until_ready(web, deadline_s=90)
        ended_at = time.monotonic()
        outcome = await traffic.stop()
    allowed = {Phase.ROLLED_BACK} if phase is Phase.ROLLING_BACK else {Phase.SUCCESSFUL, Phase.ROLLED_BACK}
    assert ended in allowed | ({Phase.ABORTED} if phase is Phase.STAGING else set())
    nothing_lost(outcome, await story.verdict(outcome, settle_s=ended_at - began_at + 10), [strike])


def _held(story: ClusterStory, scene: Scene) -> list[tuple[Machine, Disaster]]:
    """Give each disaster a host of its own."""
    return [(story.cluster.machine(f"web-{3 - number}"), disaster) for number, disaster in enumerate(scene)]


async def _shorten_watchdog(held: Sequence[tuple[Machine, Disaster]]) -> None:
    """Where the watchdog shall end an agent, its 90 s are too long to wait for; they are read at the agent's start."""
    directory = "/run/systemd/system/tidegate-agent.service.d"
    short = f"mkdir -p {directory} && printf '{WATCHDOG}' >{directory}/short.conf && systemctl daemon-reload"
    for web, disaster in held:
        if "watchdog" in disaster.name:
            await web.shell(short)
            await web.run("systemctl", "restart", "tidegate-agent")
            await until_ready(web)


async def _freeze(held: Sequence[tuple[Machine, Disaster]]) -> None:
    await asyncio.gather(*(web.freeze() for web, _ in held))


async def _advance(story: ClusterStory, phase: Phase) -> None:
    """Bring the rollout that has just begun into *phase*."""
    for each in FORWARD:
        await story.until_reached(each)
        if each is phase:
            return
        if each is Phase.AWAITING_PROMOTION:
            await _insist(story, "rollback" if phase is Phase.ROLLING_BACK else "promote")
            if phase is Phase.ROLLING_BACK:
                await story.until_reached(phase)
                return


async def _insist(story: ClusterStory, name: str) -> None:
    """Give a command until it is taken: Consul may just elect a leader."""

    async def taken() -> bool:
        return (await story.command(name, "--reason", "a test", "--detach")).code == 0

    assert await eventually(taken, deadline_s=30), await story.record()


async def _finish(story: ClusterStory) -> Phase:
    """Promote where it waits for that, and wait for the end of the rollout."""

    def is_over(record: Decision) -> bool:
        return record.phase.is_terminal or (record.phase is Phase.AWAITING_PROMOTION and not record.flags.promoted)

    record = await story.until(is_over, deadline_s=150)
    while not record.phase.is_terminal:
        await story.command("promote", "--reason", "a test", "--detach")
        record = await story.until(is_over, deadline_s=150)
    return record.phase

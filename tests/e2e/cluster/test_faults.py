"""Whatever happens to a host, Consul or the registry during a rollout: visitors do not notice, and it ends well."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from agent.core.model.record import Phase
from agent.core.rollout.decision import Decision
from cluster.machine import Machine, until_ready
from cluster.scenarios.cluster import ClusterScenario, PushedImages
from cluster.servers.process import eventually
from tests.e2e.cluster.fault_injection import FaultInjection, inject_fault, nothing_lost
from tests.e2e.cluster.faults import DISASTERS, FAULT_SEQUENCES, Disaster, FaultSequence

pytestmark = [
    pytest.mark.real,
    pytest.mark.traffic,
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
each_fault_sequence = pytest.mark.parametrize(
    "fault_sequence", FAULT_SEQUENCES, ids=lambda fault_sequence: fault_sequence[0].name.replace(" ", "-") + "..."
)


@each_fault_sequence
async def test_in_switching(
    scenario: ClusterScenario, test_images: PushedImages, fault_sequence: FaultSequence
) -> None:
    """Each disaster has a host that has not switched: its agent is frozen until the disaster comes."""
    target = test_images.other(scenario.version)
    held = _held(scenario, fault_sequence)
    async with scenario.traffic() as traffic:
        await _shorten_watchdog(held)
        await scenario.deploy(target, "--manual", "--wait", "promotion", *PATIENT)
        await _freeze(held)
        promoted_at = time.monotonic()
        await scenario.promote_at_once()
        await scenario.until_phase(Phase.SWITCHING)
        injections: list[FaultInjection] = []
        for web, disaster in held:
            assert (await scenario.until(lambda _: True)).phase is Phase.SWITCHING
            injections.append(await inject_fault(scenario, web, disaster))
            await scenario.until_serves(web, target)
        await scenario.until_phase(Phase.SUCCESSFUL, deadline_s=120)
        ended_at = time.monotonic()
        outcome = await traffic.stop()
    for each in injections:
        each.was_told()
    verdict = await scenario.verdict(outcome, settle_s=ended_at - promoted_at + 10)
    assert outcome.rate > 100, "so few requests prove nothing"
    nothing_lost(outcome, verdict, injections)


@pytest.mark.full
@each_fault_sequence
@pytest.mark.parametrize("phase", [Phase.READY, Phase.AWAITING_PROMOTION, Phase.BAKING], ids=str)
async def test_in_a_phase_that_waits(
    scenario: ClusterScenario, test_images: PushedImages, phase: Phase, fault_sequence: FaultSequence
) -> None:
    """All of a scene befalls one rollout, which then goes on as the operator says."""
    target = test_images.other(scenario.version)
    held = _held(scenario, fault_sequence)
    way = ("--manual",) if phase is Phase.READY else ("--canary", "1", "--bake-time", "10m", "--drain-timeout", "15m")
    async with scenario.traffic() as traffic:
        await _shorten_watchdog(held)
        began_at = time.monotonic()
        await scenario.deploy(target, *way, "--wait", "promotion", *PATIENT)
        if phase is Phase.BAKING:
            await scenario.command("promote", "--reason", "a test", "--detach")
            await scenario.until_phase(Phase.BAKING)
        await _freeze(held)
        injections: list[FaultInjection] = []
        for web, disaster in held:
            assert (await scenario.until(lambda _: True)).phase is phase
            injections.append(await inject_fault(scenario, web, disaster))
            await until_ready(web, deadline_s=90)
        onward = "promote" if phase is Phase.READY else "rollback"
        await _insist(scenario, onward)
        await scenario.until_phase(Phase.SUCCESSFUL if phase is Phase.READY else Phase.ROLLED_BACK, deadline_s=150)
        ended_at = time.monotonic()
        outcome = await traffic.stop()
    for each in injections:
        each.was_told()
    nothing_lost(outcome, await scenario.verdict(outcome, settle_s=ended_at - began_at + 10), injections)


@pytest.mark.full
@each_disaster
@pytest.mark.parametrize("phase", [Phase.STAGING, Phase.RETIRING, Phase.ROLLING_BACK], ids=str)
async def test_in_a_phase_that_passes(
    scenario: ClusterScenario, test_images: PushedImages, phase: Phase, disaster: Disaster
) -> None:
    """Forward by a canary that is promoted, or taken back; before the commit it may end as aborted, too."""
    target = test_images.other(scenario.version)
    ((web, _),) = held = _held(scenario, (disaster,))
    async with scenario.traffic() as traffic:
        await _shorten_watchdog(held)
        began_at = time.monotonic()
        await scenario.deploy(target, "--canary", "1", "--detach", *PATIENT)
        await _advance(scenario, phase)
        if "watchdog" in disaster.name:
            await web.freeze()
        inject = await inject_fault(scenario, web, disaster)
        inject.was_shown()
        ended = await _finish(scenario)
        await until_ready(web, deadline_s=90)
        ended_at = time.monotonic()
        outcome = await traffic.stop()
    allowed = {Phase.ROLLED_BACK} if phase is Phase.ROLLING_BACK else {Phase.SUCCESSFUL, Phase.ROLLED_BACK}
    assert ended in allowed | ({Phase.ABORTED} if phase is Phase.STAGING else set())
    nothing_lost(outcome, await scenario.verdict(outcome, settle_s=ended_at - began_at + 10), [inject])


def _held(scenario: ClusterScenario, fault_sequence: FaultSequence) -> list[tuple[Machine, Disaster]]:
    """Give each disaster a host of its own."""
    return [(scenario.cluster.machine(f"web-{3 - number}"), disaster) for number, disaster in enumerate(fault_sequence)]


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


async def _advance(scenario: ClusterScenario, phase: Phase) -> None:
    """Bring the rollout that has just begun into *phase*."""
    for each in FORWARD:
        await scenario.until_reached(each)
        if each is phase:
            return
        if each is Phase.AWAITING_PROMOTION:
            await _insist(scenario, "rollback" if phase is Phase.ROLLING_BACK else "promote")
            if phase is Phase.ROLLING_BACK:
                await scenario.until_reached(phase)
                return


async def _insist(scenario: ClusterScenario, name: str) -> None:
    """Give a command until it is taken: Consul may just elect a leader."""

    async def taken() -> bool:
        return (await scenario.command(name, "--reason", "a test", "--detach")).code == 0

    assert await eventually(taken, deadline_s=30), await scenario.record()


async def _finish(scenario: ClusterScenario) -> Phase:
    """Promote where it waits for that, and wait for the end of the rollout."""

    def is_over(record: Decision) -> bool:
        return record.phase.is_terminal or (record.phase is Phase.AWAITING_PROMOTION and not record.flags.promoted)

    record = await scenario.until(is_over, deadline_s=150)
    while not record.phase.is_terminal:
        await scenario.command("promote", "--reason", "a test", "--detach")
        record = await scenario.until(is_over, deadline_s=150)
    return record.phase

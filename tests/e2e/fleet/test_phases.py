"""The coordinator, and Consul's leader, die in each phase of a rollout under traffic; for ``make test-all``."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.core.model.record import Phase
from cluster.scenarios.fleet import ELECTION_S, MIX, FleetScenario, proven
from cluster.traffic.generator import Traffic
from tests.e2e.fleet.conftest import PushedImages

pytestmark = [
    pytest.mark.real,
    pytest.mark.full,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
InjectFault = Callable[[FleetScenario], Awaitable[object]]
TAKEOVER_S = 60.0
"""A session that is not renewed lives for up to 30 s, and each phase may have begun anew by then."""


async def _coordinator(scenario: FleetScenario) -> None:
    await scenario.kill_coordinator()


async def _leader(scenario: FleetScenario) -> None:
    (await scenario.fleet.leader()).kill()


WHO = pytest.mark.parametrize("inject", [_coordinator, _leader], ids=["coordinator", "leader"])
FORWARD = (Phase.PENDING, Phase.STAGING, Phase.CANARY, Phase.AWAITING_PROMOTION, Phase.SWITCHING)


@WHO
@pytest.mark.parametrize("phase", [*FORWARD, Phase.BAKING, Phase.RETIRING])
async def test_a_death_on_the_way_forward_delays_a_rollout_and_no_more(
    scenario: FleetScenario, test_images: PushedImages, phase: Phase, inject: InjectFault
) -> None:
    """With a canary; it is promoted whenever it waits for that."""
    before = await scenario.generation()
    async with Traffic(scenario.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await scenario.begin(test_images.other(scenario.version), "--canary", "1", "--detach")
        generation = (await scenario.until(lambda record: record.generation > before)).generation
        for each in (*FORWARD, Phase.BAKING, Phase.RETIRING, Phase.SUCCESSFUL):
            if each is not Phase.PENDING:
                await scenario.until_reached(generation, each, deadline_s=TAKEOVER_S)
            if each is phase:
                await inject(scenario)
            if each is Phase.AWAITING_PROMOTION:
                assert await scenario.insist("promote")
        outcome = await traffic.stop()
    proven(await scenario.verdict(outcome, settle_s=ELECTION_S), outcome)


@WHO
async def test_a_death_in_an_abort_delays_it(
    scenario: FleetScenario, test_images: PushedImages, inject: InjectFault
) -> None:
    """From ready: staged everywhere, seen by nobody."""
    async with Traffic(scenario.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await scenario.begin(test_images.other(scenario.version), "--manual", "--detach")
        await scenario.until_phase(Phase.READY)
        await inject(scenario)
        assert await scenario.insist("abort")
        await scenario.until_phase(Phase.ABORTED, deadline_s=TAKEOVER_S)
        outcome = await traffic.stop()
    proven(await scenario.verdict(outcome, settle_s=ELECTION_S), outcome)


@WHO
async def test_a_death_in_a_rollback_delays_it(
    scenario: FleetScenario, test_images: PushedImages, inject: InjectFault
) -> None:
    """Whoever had the new release goes back, once."""
    async with Traffic(scenario.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await scenario.begin(test_images.other(scenario.version), "--detach")
        record = await scenario.until_phase(Phase.BAKING)
        assert await scenario.insist("rollback")
        await scenario.until_reached(record.generation, Phase.ROLLING_BACK)
        await inject(scenario)
        await scenario.until_phase(Phase.ROLLED_BACK, deadline_s=TAKEOVER_S)
        outcome = await traffic.stop()
    proven(await scenario.verdict(outcome, settle_s=ELECTION_S), outcome)

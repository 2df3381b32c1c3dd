"""The coordinator, and Consul's leader, die in each phase of a rollout under traffic; for ``make test-all``."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.core.model.record import Phase
from cluster.scenarios.fleet import ELECTION_S, MIX, FleetStory, proven
from cluster.traffic.generator import Traffic
from tests.e2e.fleet.conftest import Shelf

pytestmark = [
    pytest.mark.real,
    pytest.mark.full,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
Strike = Callable[[FleetStory], Awaitable[object]]
TAKEOVER_S = 60.0
"""A session that is not renewed lives for up to 30 s, and each phase may have begun anew by then."""


async def _coordinator(story: FleetStory) -> None:
    await story.kill_coordinator()


async def _leader(story: FleetStory) -> None:
    (await story.fleet.leader()).kill()


WHO = pytest.mark.parametrize("strike", [_coordinator, _leader], ids=["coordinator", "leader"])
FORWARD = (Phase.PENDING, Phase.STAGING, Phase.CANARY, Phase.AWAITING_PROMOTION, Phase.SWITCHING)


@WHO
@pytest.mark.parametrize("phase", [*FORWARD, Phase.BAKING, Phase.RETIRING])
async def test_a_death_on_the_way_forward_delays_a_rollout_and_no_more(
    story: FleetStory, shelf: Shelf, phase: Phase, strike: Strike
) -> None:
    """With a canary; it is promoted whenever it waits for that."""
    before = await story.generation()
    async with Traffic(story.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await story.begin(shelf.other(story.version), "--canary", "1", "--detach")
        generation = (await story.until(lambda record: record.generation > before)).generation
        for each in (*FORWARD, Phase.BAKING, Phase.RETIRING, Phase.SUCCESSFUL):
            if each is not Phase.PENDING:
                await story.until_reached(generation, each, deadline_s=TAKEOVER_S)
            if each is phase:
                await strike(story)
            if each is Phase.AWAITING_PROMOTION:
                assert await story.insist("promote")
        outcome = await traffic.stop()
    proven(await story.verdict(outcome, settle_s=ELECTION_S), outcome)


@WHO
async def test_a_death_in_an_abort_delays_it(story: FleetStory, shelf: Shelf, strike: Strike) -> None:
    """From ready: staged everywhere, seen by nobody."""
    async with Traffic(story.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await story.begin(shelf.other(story.version), "--manual", "--detach")
        await story.until_phase(Phase.READY)
        await strike(story)
        assert await story.insist("abort")
        await story.until_phase(Phase.ABORTED, deadline_s=TAKEOVER_S)
        outcome = await traffic.stop()
    proven(await story.verdict(outcome, settle_s=ELECTION_S), outcome)


@WHO
async def test_a_death_in_a_rollback_delays_it(story: FleetStory, shelf: Shelf, strike: Strike) -> None:
    """Whoever had the new release goes back, once."""
    async with Traffic(story.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await story.begin(shelf.other(story.version), "--detach")
        record = await story.until_phase(Phase.BAKING)
        assert await story.insist("rollback")
        await story.until_reached(record.generation, Phase.ROLLING_BACK)
        await strike(story)
        await story.until_phase(Phase.ROLLED_BACK, deadline_s=TAKEOVER_S)
        outcome = await traffic.stop()
    proven(await story.verdict(outcome, settle_s=ELECTION_S), outcome)

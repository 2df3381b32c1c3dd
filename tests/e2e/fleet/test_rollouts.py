"""
Whole rollouts of a real fleet under traffic, through a balancer that sends each request to another host.

Whoever may die at a bad moment does; over each whole run nothing fails, and nobody is moved unasked or back and forth.
"""

import asyncio
import signal

import pytest

from agent.core.model.record import Phase
from cluster.scenarios.fleet import ELECTION_S, MIX, FleetScenario, gone, proven, version_of
from cluster.traffic.generator import Traffic
from tests.e2e.fleet.conftest import PushedImages

pytestmark = [
    pytest.mark.real,
    pytest.mark.traffic,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="session"),
]


async def test_a_deploy_goes_on_when_its_command_is_killed(scenario: FleetScenario, test_images: PushedImages) -> None:
    """The command only asks; the record is what counts. Every host serves the new release, and the old one is gone."""
    new = test_images.other(scenario.version)
    async with Traffic(scenario.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        command = await scenario.begin(new)
        await scenario.until_phase(Phase.STAGING)
        command.process.send_signal(signal.SIGKILL)
        await gone(command)
        record = await scenario.until_phase(Phase.SUCCESSFUL)
        outcome = await traffic.stop()
    proven(await scenario.verdict(outcome), outcome)
    assert version_of(await scenario.fleet.serving()) == version_of(new)
    assert record.target is not None
    assert await scenario.serves(record.target.release) == frozenset(scenario.fleet.hosts)


async def test_a_canary_waits_for_promote_and_the_rest_follow_though_the_coordinator_is_killed(
    scenario: FleetScenario, test_images: PushedImages
) -> None:
    """One host of five shows the new release until `promote`; the coordinator dies in switching, another goes on."""
    new = test_images.other(scenario.version)
    async with Traffic(scenario.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        command = await scenario.begin(new, "--canary", "1", "--wait", "done")
        record = await scenario.until_phase(Phase.AWAITING_PROMOTION)
        assert record.target is not None
        assert len(await scenario.serves(record.target.release)) == 1
        await asyncio.sleep(1)
        promote = await scenario.start("promote")
        await scenario.until_phase(Phase.SWITCHING)
        killed = await scenario.kill_coordinator()
        said = [await each.said(deadline_s=120) for each in (promote, command)]
        outcome = await traffic.stop()
    assert [each.code for each in said] == [0, 0], said
    proven(await scenario.verdict(outcome), outcome)
    record = await scenario.until_phase(Phase.SUCCESSFUL)
    assert await scenario.fleet.holder() not in ("", killed)
    assert record.target is not None
    assert await scenario.serves(record.target.release) == frozenset(scenario.fleet.hosts)


async def test_an_abort_before_the_commit_is_seen_by_nobody(scenario: FleetScenario, test_images: PushedImages) -> None:
    """Staged everywhere and taken back. Meanwhile a second deploy is refused, and told who is first and why."""
    new = test_images.other(scenario.version)
    async with Traffic(scenario.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        both = [await scenario.begin(new, "--manual", "--reason", f"said {number}", "--detach") for number in (1, 2)]
        said = [await command.said() for command in both]
        first = await scenario.until_phase(Phase.READY)
        winner, loser = sorted(said, key=lambda one: one.code)
        assert winner.code == 0, said
        assert loser.code != 0
        assert first.reason in loser.out + loser.err
        assert (await scenario.command("abort")).code == 0
        await scenario.until_phase(Phase.ABORTED)
        await asyncio.sleep(2)
        outcome = await traffic.stop()
    verdict = await scenario.verdict(outcome)
    proven(verdict, outcome)
    assert version_of(new) not in verdict.newcomers


async def test_a_rollback_moves_only_those_who_had_the_new_release(
    scenario: FleetScenario, test_images: PushedImages
) -> None:
    """After the commit, while the old release is warm: it starts no container."""
    new = test_images.other(scenario.version)
    async with Traffic(scenario.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        said = await scenario.deploy(new, "--wait", "switched")
        assert said.code == 0, said
        before = await scenario.containers()
        await asyncio.sleep(2)
        assert (await scenario.command("rollback")).code == 0
        await scenario.until_phase(Phase.ROLLED_BACK)
        assert await scenario.containers() <= before
        outcome = await traffic.stop()
    verdict = await scenario.verdict(outcome)
    proven(verdict, outcome)
    assert verdict.moved_by_rollback > 0, "nobody had the new release: this proves nothing"
    assert version_of(await scenario.fleet.serving()) == scenario.version


async def test_the_leader_of_consul_dies_in_switching(scenario: FleetScenario, test_images: PushedImages) -> None:
    """Hosts that had not read the commit yet switch once Consul has a leader again; nobody notices more than that."""
    new = test_images.other(scenario.version)
    async with Traffic(scenario.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await scenario.begin(new, "--detach")
        await scenario.until_phase(Phase.SWITCHING)
        (await scenario.fleet.leader()).kill()
        await scenario.until_phase(Phase.SUCCESSFUL, deadline_s=120)
        outcome = await traffic.stop()
    proven(await scenario.verdict(outcome, settle_s=ELECTION_S), outcome)
    assert version_of(await scenario.fleet.serving()) == version_of(new)


async def test_hosts_join_before_and_after_the_commit_and_one_leaves(
    scenario: FleetScenario, test_images: PushedImages
) -> None:
    """Who comes before it must be staged, too; who comes after it gets visitors once it runs both releases."""
    fleet, new = scenario.fleet, test_images.other(scenario.version)
    async with Traffic(fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await scenario.begin(new, "--manual", "--detach")
        await scenario.until_phase(Phase.READY)
        early, late = await asyncio.gather(fleet.add("web-6"), fleet.add("web-7"))
        await early.start_agent()
        await fleet.edge.until(*fleet.plan.nodes, "web-6", deadline_s=30)
        await scenario.until(lambda record: record.phase is Phase.READY)
        assert (await scenario.command("promote")).code == 0
        await scenario.until_phase(Phase.BAKING)
        await late.start_agent()
        await fleet.hosts["web-1"].cli("leave")
        await fleet.edge.until(*[node for node in fleet.hosts if node != "web-1"], deadline_s=40)
        await scenario.until_phase(Phase.SUCCESSFUL, deadline_s=90)
        await fleet.hosts["web-1"].cli("return")
        await fleet.edge.until(*fleet.hosts, deadline_s=30)
        outcome = await traffic.stop()
    proven(await scenario.verdict(outcome), outcome)
    assert version_of(await fleet.serving()) == version_of(new)

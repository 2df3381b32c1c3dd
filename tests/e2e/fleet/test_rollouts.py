"""
Whole rollouts of a real fleet under traffic, through a balancer that sends each request to another host.

Whoever may die at a bad moment does; over each whole run nothing fails, and nobody is moved unasked or back and forth.
"""

import asyncio
import signal

import pytest

from agent.core.model.record import Phase
from cluster.scenarios.fleet import ELECTION_S, MIX, FleetStory, gone, proven, version_of
from cluster.traffic.generator import Traffic
from tests.e2e.fleet.conftest import Shelf

pytestmark = [
    pytest.mark.real,
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="session"),
]


async def test_a_deploy_goes_on_when_its_command_is_killed(story: FleetStory, shelf: Shelf) -> None:
    """The command only asks; the record is what counts. Every host serves the new release, and the old one is gone."""
    new = shelf.other(story.version)
    async with Traffic(story.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        command = await story.begin(new)
        await story.until_phase(Phase.STAGING)
        command.process.send_signal(signal.SIGKILL)
        await gone(command)
        record = await story.until_phase(Phase.SUCCESSFUL)
        outcome = await traffic.stop()
    proven(await story.verdict(outcome), outcome)
    assert version_of(await story.fleet.serving()) == version_of(new)
    assert record.target is not None
    assert await story.serves(record.target.release) == frozenset(story.fleet.hosts)


async def test_a_canary_waits_for_promote_and_the_rest_follow_though_the_coordinator_is_killed(
    story: FleetStory, shelf: Shelf
) -> None:
    """One host of five shows the new release until `promote`; the coordinator dies in switching, another goes on."""
    new = shelf.other(story.version)
    async with Traffic(story.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        command = await story.begin(new, "--canary", "1", "--wait", "done")
        record = await story.until_phase(Phase.AWAITING_PROMOTION)
        assert record.target is not None
        assert len(await story.serves(record.target.release)) == 1
        await asyncio.sleep(1)
        promote = await story.start("promote")
        await story.until_phase(Phase.SWITCHING)
        killed = await story.kill_coordinator()
        said = [await each.said(deadline_s=120) for each in (promote, command)]
        outcome = await traffic.stop()
    assert [each.code for each in said] == [0, 0], said
    proven(await story.verdict(outcome), outcome)
    record = await story.until_phase(Phase.SUCCESSFUL)
    assert await story.fleet.holder() not in ("", killed)
    assert record.target is not None
    assert await story.serves(record.target.release) == frozenset(story.fleet.hosts)


async def test_an_abort_before_the_commit_is_seen_by_nobody(story: FleetStory, shelf: Shelf) -> None:
    """Staged everywhere and taken back. Meanwhile a second deploy is refused, and told who is first and why."""
    new = shelf.other(story.version)
    async with Traffic(story.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        both = [await story.begin(new, "--manual", "--reason", f"said {number}", "--detach") for number in (1, 2)]
        said = [await command.said() for command in both]
        first = await story.until_phase(Phase.READY)
        winner, loser = sorted(said, key=lambda one: one.code)
        assert winner.code == 0, said
        assert loser.code != 0
        assert first.reason in loser.out + loser.err
        assert (await story.command("abort")).code == 0
        await story.until_phase(Phase.ABORTED)
        await asyncio.sleep(2)
        outcome = await traffic.stop()
    verdict = await story.verdict(outcome)
    proven(verdict, outcome)
    assert version_of(new) not in verdict.newcomers


async def test_a_rollback_moves_only_those_who_had_the_new_release(story: FleetStory, shelf: Shelf) -> None:
    """After the commit, while the old release is warm: it starts no container."""
    new = shelf.other(story.version)
    async with Traffic(story.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        said = await story.deploy(new, "--wait", "switched")
        assert said.code == 0, said
        before = await story.containers()
        await asyncio.sleep(2)
        assert (await story.command("rollback")).code == 0
        await story.until_phase(Phase.ROLLED_BACK)
        assert await story.containers() <= before
        outcome = await traffic.stop()
    verdict = await story.verdict(outcome)
    proven(verdict, outcome)
    assert verdict.moved_by_rollback > 0, "nobody had the new release: this proves nothing"
    assert version_of(await story.fleet.serving()) == story.version


async def test_the_leader_of_consul_dies_in_switching(story: FleetStory, shelf: Shelf) -> None:
    """Hosts that had not read the commit yet switch once Consul has a leader again; nobody notices more than that."""
    new = shelf.other(story.version)
    async with Traffic(story.fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await story.begin(new, "--detach")
        await story.until_phase(Phase.SWITCHING)
        (await story.fleet.leader()).kill()
        await story.until_phase(Phase.SUCCESSFUL, deadline_s=120)
        outcome = await traffic.stop()
    proven(await story.verdict(outcome, settle_s=ELECTION_S), outcome)
    assert version_of(await story.fleet.serving()) == version_of(new)


async def test_hosts_join_before_and_after_the_commit_and_one_leaves(story: FleetStory, shelf: Shelf) -> None:
    """Who comes before it must be staged, too; who comes after it gets visitors once it runs both releases."""
    fleet, new = story.fleet, shelf.other(story.version)
    async with Traffic(fleet.edge.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await story.begin(new, "--manual", "--detach")
        await story.until_phase(Phase.READY)
        early, late = await asyncio.gather(fleet.add("web-6"), fleet.add("web-7"))
        await early.start_agent()
        await fleet.edge.until(*fleet.plan.nodes, "web-6", deadline_s=30)
        await story.until(lambda record: record.phase is Phase.READY)
        assert (await story.command("promote")).code == 0
        await story.until_phase(Phase.BAKING)
        await late.start_agent()
        await fleet.hosts["web-1"].cli("leave")
        await fleet.edge.until(*[node for node in fleet.hosts if node != "web-1"], deadline_s=40)
        await story.until_phase(Phase.SUCCESSFUL, deadline_s=90)
        await fleet.hosts["web-1"].cli("return")
        await fleet.edge.until(*fleet.hosts, deadline_s=30)
        outcome = await traffic.stop()
    proven(await story.verdict(outcome), outcome)
    assert version_of(await fleet.serving()) == version_of(new)

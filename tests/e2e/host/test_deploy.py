"""The main job under traffic: nothing fails and nobody is moved, counted over the whole run."""

import asyncio

import pytest

from agent.core.model.states import SlotPhase
from cluster.scenarios.host import MIX, Scenario, phase_of, proven, slot_of, version_of
from cluster.servers.consul import ConsulServer
from cluster.servers.host import Plan
from cluster.traffic.generator import Traffic
from cluster.traffic.http import Connection
from cluster.traffic.verdict import EventKind
from tests.e2e.host.conftest import MakeHost, PushedImages

pytestmark = [pytest.mark.real, pytest.mark.traffic, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def test_deploys_in_both_directions_lose_and_move_nobody(scenario: Scenario, test_images: PushedImages) -> None:
    """a (ends its requests on SIGTERM) -> b (dies at once on it) -> a, each until the old one is retired."""
    async with Traffic(scenario.hosts[0].target, mix=MIX) as traffic:
        await asyncio.sleep(2)
        for old, new in ((test_images.a, test_images.b), (test_images.b, test_images.a)):
            await scenario.stage(new)
            await asyncio.sleep(1)
            await scenario.activate(new)
            await scenario.retired(old)
        outcome = await traffic.stop()
    proven(scenario.verdict(outcome), outcome)


async def test_a_reload_in_mid_drain_loses_and_moves_nobody(scenario: Scenario, test_images: PushedImages) -> None:
    """HAProxy is reloaded while visitors still hold the old release: they keep it, and its container stays."""
    (host,) = scenario.hosts
    async with Traffic(host.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await scenario.stage(test_images.b)
        await scenario.activate(test_images.b)
        await asyncio.sleep(2)
        await host.haproxy.reload()
        report = await host.until(lambda report: bool(report.old_workers))
        assert phase_of(report, test_images.a) is SlotPhase.DRAINING
        await scenario.retired(test_images.a)
        outcome = await traffic.stop()
    proven(scenario.verdict(outcome), outcome)


async def test_a_rollback_in_mid_drain_moves_only_holders_of_the_release_taken_back(
    scenario: Scenario, test_images: PushedImages
) -> None:
    """The old release is warm: the way back starts no container, and who never left it notices nothing."""
    (host,) = scenario.hosts
    async with Traffic(host.target, mix=MIX) as traffic:
        await asyncio.sleep(1)
        await scenario.stage(test_images.b)
        await scenario.activate(test_images.b)
        await asyncio.sleep(3)
        before = await host.report()
        await scenario.take_back(test_images.b, to=test_images.a)
        after = await host.report()
        await scenario.retired(test_images.b)
        await asyncio.sleep(2)
        outcome = await traffic.stop()
    verdict = scenario.verdict(outcome)
    proven(verdict, outcome)
    assert verdict.moved_by_rollback > 0, "nobody held b: the rollback proved nothing"
    assert before is not None
    assert after is not None
    slot = slot_of(before, test_images.a)
    assert slot is not None
    assert after.slots[slot].container == before.slots[slot].container


async def test_an_idle_keep_alive_client_never_sees_a_release_before_its_activation(
    scenario: Scenario, test_images: PushedImages
) -> None:
    """Its connection lives on an old HAProxy worker with frozen slot states; no slot gets another occupant before."""
    (host,) = scenario.hosts
    for old, new in ((test_images.a, test_images.b), (test_images.b, test_images.a)):
        idle = [await Connection.open(host.target) for _ in range(20)]
        assert {await _ask(connection) for connection in idle} == {version_of(old)}
        await host.haproxy.reload()
        await scenario.consul.put(f"{scenario.app}/stage/image", new)
        await host.until(lambda report: any("old HAProxy worker" in slot.reason for slot in report.slots.values()))
        assert {await _ask(connection) for connection in idle[:5]} == {version_of(old)}
        await scenario.stage(new)
        assert {await _ask(connection) for connection in idle[5:]} <= {version_of(old), None}
        await scenario.activate(new)
        await scenario.retired(old)
        for connection in idle:
            connection.close()


async def test_two_hosts_with_the_release_in_different_slots_move_nobody(
    app_name: str, consul: ConsulServer, make_host: MakeHost, test_images: PushedImages
) -> None:
    """A balancer without stickiness before two hosts, of which the second switches 1.5 s later: 0 are moved."""
    hosts = [await make_host(Plan(app_name, node=node)) for node in ("web-1", "web-2")]
    scenario = Scenario(app_name, consul, hosts)
    await _put_in_different_slots(scenario, test_images)
    late = hosts[1]
    async with Traffic(*(host.target for host in hosts), mix=MIX) as traffic:
        await asyncio.sleep(1)
        await scenario.stage(test_images.b)
        slots = [slot_of(report, test_images.b) for host in hosts if (report := await host.report())]
        assert len(set(slots)) == 2, f"b is in the same slot on both: {slots}"
        late.agent.pause()
        scenario.happened(EventKind.ACTIVATED, test_images.b)
        await consul.put(f"{app_name}/active/image", test_images.b)
        await hosts[0].until(lambda report: phase_of(report, test_images.b) is SlotPhase.SERVING)
        await asyncio.sleep(1.5)
        late.agent.resume()
        await late.until(lambda report: phase_of(report, test_images.b) is SlotPhase.SERVING)
        await scenario.retired(test_images.a)
        outcome = await traffic.stop()
    proven(scenario.verdict(outcome, settle_s=5), outcome)


async def _put_in_different_slots(scenario: Scenario, test_images: PushedImages) -> None:
    """Boot the first host on a; let the second come to it from b, so that it lies in its other slot."""
    first, second = scenario.hosts
    await scenario.consul.put(f"{scenario.app}/active/image", test_images.b)
    await second.start_agent()
    await second.until(lambda report: phase_of(report, test_images.b) is SlotPhase.SERVING)
    await scenario.consul.put(f"{scenario.app}/active/image", test_images.a)
    await second.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING)
    await first.start_agent()
    await scenario.activate(test_images.a)
    await scenario.retired(test_images.b)


async def _ask(connection: Connection) -> str | None:
    """Ask on an idle connection; None where HAProxy has closed it meanwhile."""
    if connection.is_closed_by_server:
        return None
    await connection.send("GET", "/", "")
    head = await connection.read_head()
    await connection.read_body(head)
    return head.version

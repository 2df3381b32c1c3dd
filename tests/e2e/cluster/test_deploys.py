"""From nothing to a release, and on: deploy, canary, rollback, a newer agent; with traffic through the edge."""

import asyncio
import re
import tempfile
import time
from pathlib import Path

import pytest

from agent.adapters.consul.policies import Role
from agent.core.model.record import Phase
from cluster.machine import Machine, until_ready
from cluster.machine_images import build_wheel, ship
from cluster.scenarios.cluster import WEBS, ClusterScenario, PushedImages
from cluster.traffic.record import Outcome
from cluster.traffic.verdict import Verdict
from tests.e2e.cluster.conftest import RunningCluster

pytestmark = [
    pytest.mark.real,
    pytest.mark.traffic,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
COLD_START_S = 180.0
NEWER = "0.1.1"


async def test_a_cluster_comes_up_from_nothing_without_a_step_by_hand(
    running_cluster: RunningCluster, scenario: ClusterScenario
) -> None:
    """Machines boot, Consul forms a cluster in default deny, the first release is deployed and served at the edge."""
    print(f"\ncold start: {running_cluster.cold_start_s:.1f} s")
    assert running_cluster.cold_start_s < COLD_START_S
    shown = await scenario.command("status")
    assert shown.code == 0, shown.err
    for name in WEBS:
        assert name in shown.out
    refused = await scenario.command("rollback", "--reason", "a test", role=Role.READ_ONLY)
    assert refused.code != 0


async def test_a_deploy_a_canary_and_a_rollback_lose_nothing(
    scenario: ClusterScenario, test_images: PushedImages
) -> None:
    """Forward by a canary that is promoted, back by a rollback while the old release is warm."""
    target = test_images.other(scenario.version)
    async with scenario.traffic() as traffic:
        began_at = time.monotonic()
        await scenario.deploy(target, "--canary", "1", "--wait", "promotion")
        canaries = [name for name in WEBS if await _serves(scenario, name, target)]
        assert len(canaries) == 1
        promoted = await scenario.command("promote", "--reason", "looks good", "--wait", "switched")
        assert promoted.code == 0, promoted.err
        print(f"\ndeploy with a canary, until all have switched: {time.monotonic() - began_at:.1f} s")
        taken_back = await scenario.command("rollback", "--reason", "a test")
        assert taken_back.code == 0, taken_back.err
        await scenario.until_phase(Phase.ROLLED_BACK)
        began_at = time.monotonic()
        await scenario.deploy(target, "--wait", "done")
        print(f"deploy on three hosts, until the old release is gone: {time.monotonic() - began_at:.1f} s")
        outcome = await traffic.stop()
    _proven(await scenario.verdict(outcome, settle_s=8), outcome)


async def test_a_sick_image_is_refused_before_any_visitor_sees_it(
    scenario: ClusterScenario, test_images: PushedImages
) -> None:
    """The rollout ends as aborted, and says which host found what."""
    async with scenario.traffic() as traffic:
        command = await scenario.begin(test_images.sick, "--wait", "done")
        said = await command.said()
        outcome = await traffic.stop()
    assert said.code != 0
    record = await scenario.record()
    assert record is not None
    assert record.phase is Phase.ABORTED
    verdict = await scenario.verdict(outcome)
    _proven(verdict, outcome)
    assert "sick" not in verdict.newcomers


async def test_agents_are_upgraded_and_downgraded_host_by_host(
    scenario: ClusterScenario, test_images: PushedImages
) -> None:
    """Provisioned anew from another version while traffic flows; a deploy with mixed versions works, too."""
    target = test_images.other(scenario.version)
    with tempfile.TemporaryDirectory(prefix="tg-newer-") as home:
        older, newer = Path(home) / "older", Path(home) / "newer"
        for place in (older, newer):
            ship(place)
        _rename(newer)
        await asyncio.gather(*(build_wheel(place, place / "wheels") for place in (older, newer)))
        async with scenario.traffic() as traffic:
            for name in WEBS[:2]:
                await _install(scenario.cluster.machine(name), newer, NEWER)
            await scenario.deploy(target, "--wait", "done")
            for name in WEBS[:2]:
                await _install(scenario.cluster.machine(name), older, "0.1.0")
            outcome = await traffic.stop()
    _proven(await scenario.verdict(outcome), outcome)


async def _install(machine: Machine, source: Path, version: str) -> None:
    """Do what docs/upgrade.md says."""
    await machine.run("rm", "-rf", "/usr/src/tidegate")
    await machine.docker.cli("cp", str(source), f"{machine.container}:/usr/src/tidegate")
    await machine.run(
        "/usr/src/tidegate/infra/image/provision.sh", "web", "--wheels", "/usr/src/tidegate/wheels", timeout_s=120
    )
    await machine.run("systemctl", "restart", "tidegate-agent", timeout_s=60)
    await until_ready(machine)
    report = await machine.report()
    assert report is not None
    assert report.agent == version


def _rename(source: Path) -> None:
    """Make another version of the same code: what is written by one is read by the other."""
    file = source / "agent" / "__init__.py"
    text, count = re.subn(r'__version__ = "0\.1\.0"', f'__version__ = "{NEWER}"', file.read_text())
    assert count == 1, file
    file.write_text(text)


async def _serves(scenario: ClusterScenario, name: str, image: str) -> bool:
    report = await scenario.cluster.machine(name).report()
    assert report is not None
    return any(slot.is_up and slot.image.startswith(image) for slot in report.slots.values())


def _proven(verdict: Verdict, outcome: Outcome) -> None:
    assert outcome.rate > 100, "so few requests prove nothing"
    assert verdict.is_clean, f"{verdict}\n{outcome.failures[:5]}"

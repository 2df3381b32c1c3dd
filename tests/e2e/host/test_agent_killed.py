"""
The agent dies by SIGKILL before any action of a deploy: the next one ends it as it would have, and nobody notices.

The kill points are those of a deploy that was watched, in its order; each is tried in a deploy of its own.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.core.model.names import SlotName
from agent.core.model.states import SlotPhase
from cluster.scenarios.host import Scenario, phase_of
from cluster.servers.consul import ConsulServer
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.host import TEST_KNOBS, Host, Plan
from cluster.servers.process import eventually
from cluster.traffic.generator import Traffic
from tests.e2e.host.conftest import MakeHost, PushedImages
from tests.e2e.host.light_traffic import LIGHT

pytestmark = [pytest.mark.real, pytest.mark.traffic, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

KNOBS = {**TEST_KNOBS, "min_healthy_time": "100ms", "bake_time": "200ms", "visit_idle": "1s"}


@dataclass(slots=True)
class KilledAgent:
    """Deploys to and fro on one host, each with a death of the agent somewhere in it."""

    host: Host
    scenario: Scenario
    test_images: PushedImages
    docker: DockerDaemon
    serving: str = ""
    deaths: int = 0
    trace: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        self.trace = self.host.home / "trace"

    async def boot(self) -> None:
        """Let the host serve a."""
        self.serving = self.test_images.a
        await self.scenario.consul.put(f"{self.scenario.app}/active/image", self.test_images.a)
        await self._start(0)
        await self.scenario.activate(self.test_images.a)

    async def watch(self) -> list[str]:
        """Deploy undisturbed; return the names of the actions, in order."""
        self.trace.write_text("")
        await self._deploy()
        return self.trace.read_text().split()

    async def die(self, before: int) -> None:
        """Deploy with an agent that dies right before its action number *before*, counted from its start."""
        await self.host.agent.stop()
        await self._start(before)
        deploy = asyncio.create_task(self._deploy())
        try:
            assert await eventually(self._is_dead, deadline_s=40), f"the agent lived on after action {before}"
            self.deaths += 1
            await self._start(0)
            await deploy
        finally:
            deploy.cancel()

    async def _deploy(self) -> None:
        old, new = self.serving, self.test_images.b if self.serving == self.test_images.a else self.test_images.a
        await self.scenario.consul.put(f"{self.scenario.app}/stage/image", new)
        await self.host.until(lambda report: phase_of(report, new) is SlotPhase.STAGED, deadline_s=40)
        await self.scenario.activate(new)
        await self.scenario.retired(old)
        self.serving = new
        await self._is_as_it_should_be(new)

    async def _is_as_it_should_be(self, image: str) -> None:
        async def at_rest() -> bool:
            return not (await self.host.api("/v1/plan"))["actions"]

        assert await eventually(at_rest, deadline_s=15)
        report = await self.host.until(lambda report: phase_of(report, image) is SlotPhase.SERVING)
        states = sorted(str(slot.state) for slot in report.slots.values())
        assert states == ["maint", "ready"]
        label = f"label=tidegate.app={self.scenario.app}"
        assert len((await self.docker.cli("ps", "-aq", "--filter", label)).split()) == 1, "a container is orphaned"
        pins = (self.host.home / "state" / f"{self.scenario.app}-pin-to-slot.map").read_text().split()
        held = next(slot for slot in SlotName if report.slots[slot].image == image)
        assert pins == [report.slots[held].pin, str(held)], "a pin is orphaned"

    async def _is_dead(self) -> bool:
        return not self.host.agent.alive

    async def _start(self, before: int) -> None:
        await self.host.start_as(
            "-m", "tests.e2e.host.agent_killed_at", str(self.host.config), str(self.trace), str(before)
        )


async def _killed_agent(plan: tuple[str, ConsulServer, MakeHost, PushedImages, DockerDaemon]) -> KilledAgent:
    app_name, consul, make_host, test_images, docker = plan
    host = await make_host(Plan(app_name, knobs=KNOBS))
    killed_agent = KilledAgent(host, Scenario(app_name, consul, [host]), test_images, docker)
    await killed_agent.boot()
    return killed_agent


async def _survives(killed_agent: KilledAgent, points: list[int]) -> None:
    async with Traffic(killed_agent.host.target, mix=LIGHT) as traffic:
        for point in points:
            await killed_agent.die(point)
        outcome = await traffic.stop()
    assert killed_agent.deaths == len(points)
    assert outcome.failed_by_fault == {}, outcome.failures[:5]


async def test_a_deploy_survives_a_kill_before_run_switch_and_stop(
    app_name: str, consul: ConsulServer, make_host: MakeHost, test_images: PushedImages, docker: DockerDaemon
) -> None:
    """Three points: the container is about to run, the visitors to switch, the old one to stop."""
    killed_agent = await _killed_agent((app_name, consul, make_host, test_images, docker))
    actions = await killed_agent.watch()
    points = [actions.index(name) + 1 for name in ("Run", "Switch", "Stop")]
    await _survives(killed_agent, points)


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_a_deploy_survives_a_kill_before_every_action(
    app_name: str, consul: ConsulServer, make_host: MakeHost, test_images: PushedImages, docker: DockerDaemon
) -> None:
    """Every point of the deploy that was watched."""
    killed_agent = await _killed_agent((app_name, consul, make_host, test_images, docker))
    actions = await killed_agent.watch()
    await _survives(killed_agent, list(range(1, len(actions) + 1)))

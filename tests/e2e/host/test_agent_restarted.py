"""
The agent dies between any two actions of everything it can be asked to do, one life after the other, under traffic.

Where it dies is not chosen here: `reborn_agent` dies at each place the first time it comes there. That no kind of
action was left out is checked against the code's own list.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pytest
import pytest_asyncio

from agent.core.host.actions import Action
from agent.core.model.names import SlotName
from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase
from cluster.scenarios.host import Scenario, phase_of, slot_of
from cluster.servers.consul import ConsulServer
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.host import TEST_KNOBS, Host, Plan
from cluster.servers.images import Images
from cluster.servers.process import eventually
from cluster.servers.registry import Registry
from cluster.servers.stalling_proxy import stalling_proxy
from cluster.servers.tools import LabError
from cluster.traffic.generator import Traffic
from cluster.traffic.http import Connection
from tests.e2e.host.conftest import MakeHost, PushedImages
from tests.e2e.host.light_traffic import LIGHT
from tests.e2e.host.restarted_agent import Point, deaths

pytestmark = [pytest.mark.real, pytest.mark.traffic, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

KNOBS = {
    **TEST_KNOBS,
    "min_healthy_time": "100ms",
    "bake_time": "200ms",
    "visit_idle": "1s",
    "healthy_deadline": "3s",
    "drain_timeout": "4s",
    "stop_grace_period": "1s",
    "keep_releases": "1",
}
PADDING_BYTES = 3 * 1024**2


Condition = Callable[[NodeReport], bool]


@dataclass(slots=True)
class RestartedAgent:
    """A host whose agent dies everywhere, and what an operator does with it meanwhile."""

    host: Host
    scenario: Scenario
    docker: DockerDaemon
    died: list[Point] = field(default_factory=list)

    @property
    def trace(self) -> Path:
        """Where the agent notes its deaths."""
        return self.host.home / "trace"

    async def begin(self) -> None:
        """Start the agent on a host where nothing was ever deployed."""
        self.trace.write_text("")
        await self.host.start_as("-m", "tests.e2e.host.restarted_agent", str(self.host.config), str(self.trace))
        await self._comes_to_rest(lambda report: report.is_ready)

    async def serves(self, image: str) -> None:
        """Wait until only *image* is left and nothing is to be done; the next chapter may kill everywhere anew."""
        # While a container is being stopped, nothing is to be done either.
        await self._comes_to_rest(lambda report: _is_alone(report, image))
        report = await self.host.until(lambda report: _is_alone(report, image))
        assert sorted(str(slot.state) for slot in report.slots.values()) == ["maint", "ready"]
        label = f"label=tidegate.app={self.scenario.app}"
        assert len((await self.docker.cli("ps", "-aq", "--filter", label)).split()) == 1, "a container is orphaned"
        held = next(slot for slot in SlotName if report.slots[slot].image == image)
        pins = (self.host.home / "state" / f"{self.scenario.app}-pin-to-slot.map").read_text().split()
        assert pins == [report.slots[held].pin, str(held)], "a pin is orphaned"
        self.died += deaths(self.trace)
        self.trace.write_text("")

    async def _comes_to_rest(self, condition: Condition) -> None:
        async def at_rest() -> bool:
            # Between two lives nobody answers.
            with suppress(LabError):
                report, plan = await self.host.report(), await self.host.api("/v1/plan")
                return report is not None and condition(report) and not plan["actions"]
            return False

        assert await eventually(at_rest, deadline_s=40), self.host.agent.log_tail(30)


def _is_alone(report: NodeReport, image: str) -> bool:
    others = {slot.phase for slot in report.slots.values() if slot.image != image}
    return phase_of(report, image) is SlotPhase.SERVING and others == {SlotPhase.EMPTY}


@pytest_asyncio.fixture(loop_scope="session", name="lives")
async def _lives(
    app_name: str, consul: ConsulServer, make_host: MakeHost, docker: DockerDaemon, images: Images
) -> RestartedAgent:
    # Only what the agent itself brought is pruned, and another test may have brought it before.
    await images.forget()
    host = await make_host(Plan(app_name, knobs=KNOBS))
    return RestartedAgent(host, Scenario(app_name, consul, [host]), docker)


@pytest.mark.timeout(180)
async def test_whatever_it_does_an_agent_that_dies_between_any_two_actions_ends_it(
    lives: RestartedAgent, test_images: PushedImages, images: Images, registry: Registry
) -> None:
    """First boot, deploy, rollback, withdrawal, refusal, a lost container, a pull given up, a cut at the deadline."""
    await lives.begin()
    await lives.scenario.activate(test_images.a)
    await lives.serves(test_images.a)
    padded = await images.testapp("padded", padding_bytes=PADDING_BYTES)
    async with (
        Traffic(lives.host.target, mix=LIGHT) as traffic,
        stalling_proxy(registry.port, PADDING_BYTES // 2) as stalled,
    ):
        await _deploy(lives, test_images.a, test_images.b)
        await _go_back_in_mid_drain(lives, test_images.b, test_images.a)
        await _withdraw(lives, test_images.b, test_images.a)
        await _refuse(lives, test_images.b, test_images.sick)
        await _lose_the_staged_container(lives, test_images.b, test_images.a)
        await _give_up_a_pull(lives, test_images.b, padded.replace(registry.address, f"127.0.0.1:{stalled.port}"))
        await _cut_at_the_deadline(lives, test_images.b, test_images.a)
        outcome = await traffic.stop()
    verdict = lives.scenario.verdict(outcome, settle_s=5)
    assert verdict.is_clean, f"{verdict}\n{outcome.failures[:5]}"
    assert {point.kind for point in lives.died} >= {kind.__name__ for kind in get_args(Action)}
    print(f"{len(lives.died)} deaths, {outcome.total} requests, 0 failed")


async def _deploy(lives: RestartedAgent, old: str, new: str) -> None:
    await lives.scenario.stage(new)
    await lives.scenario.activate(new)
    await lives.scenario.retired(old)
    await lives.serves(new)


async def _go_back_in_mid_drain(lives: RestartedAgent, old: str, new: str) -> None:
    await lives.scenario.stage(new)
    await lives.scenario.activate(new)
    await lives.scenario.take_back(new, to=old)
    await lives.scenario.retired(new)
    await lives.scenario.consul.put(f"{lives.scenario.app}/stage/image", old)
    await lives.serves(old)


async def _withdraw(lives: RestartedAgent, serving: str, staged: str) -> None:
    await lives.scenario.stage(staged)
    await lives.scenario.consul.put(f"{lives.scenario.app}/stage/image", serving)
    await lives.scenario.retired(staged)
    await lives.serves(serving)


async def _refuse(lives: RestartedAgent, serving: str, sick: str) -> None:
    await lives.scenario.consul.put(f"{lives.scenario.app}/stage/image", sick)
    await lives.host.until(
        lambda report: any("version=sick" in line for slot in report.slots.values() for line in slot.lines)
    )
    await lives.scenario.consul.put(f"{lives.scenario.app}/stage/image", serving)
    await lives.serves(serving)


async def _lose_the_staged_container(lives: RestartedAgent, serving: str, staged: str) -> None:
    await lives.scenario.stage(staged)
    report = await lives.host.until(lambda report: phase_of(report, staged) is SlotPhase.STAGED)
    slot = slot_of(report, staged)
    assert slot is not None
    await lives.docker.cli("kill", report.slots[slot].container)
    await lives.host.until(lambda report: phase_of(report, staged) is not SlotPhase.STAGED)
    await lives.scenario.stage(staged)
    await lives.scenario.consul.put(f"{lives.scenario.app}/stage/image", serving)
    await lives.serves(serving)


async def _give_up_a_pull(lives: RestartedAgent, serving: str, stalling: str) -> None:
    await lives.scenario.consul.put(f"{lives.scenario.app}/stage/image", stalling)
    await lives.host.until(
        lambda report: any(slot.phase is SlotPhase.PULLING and "%" in slot.reason for slot in report.slots.values())
    )
    await lives.scenario.consul.put(f"{lives.scenario.app}/stage/image", serving)
    await lives.serves(serving)


async def _cut_at_the_deadline(lives: RestartedAgent, old: str, new: str) -> None:
    """One download outlives `drain_timeout` and its grace: it is cut, as promised, and nobody else is."""
    connection = await Connection.open(lives.host.target)
    await connection.send("GET", "/stream?ms=30000", "")
    await connection.read_head()
    await _deploy(lives, old, new)
    connection.close()

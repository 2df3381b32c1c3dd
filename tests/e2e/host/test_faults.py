"""Whatever fails in the middle of a deploy, under traffic: the deploy ends as it would have, and says why it waits."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest

from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase
from cluster.scenarios.host import Scenario, phase_of
from cluster.servers.consul import ConsulServer
from cluster.servers.dockerd import DockerDaemon, separate_daemon
from cluster.servers.host import Plan, host
from cluster.servers.images import Images
from cluster.servers.process import eventually
from cluster.servers.tools import run
from cluster.traffic.clients import Mix
from cluster.traffic.generator import Traffic
from cluster.traffic.record import Failure, Outcome
from cluster.traffic.verdict import EventKind
from tests.e2e.host import faults
from tests.e2e.host.faults import HOUR_S, Fault, Machine, Step, machine, nothing

pytestmark = [pytest.mark.real, pytest.mark.traffic, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

MODERATE = Mix(
    new_rate=40,
    keepalive_rate=40,
    slow_rate=2,
    slow_ms=1000,
    stream_rate=1,
    stream_ms=1500,
    websocket_rate=1,
    websocket_s=1.5,
    visitors=20,
    visit_every_s=0.25,
    visit_min_s=2,
    visit_max_s=4,
    timeout_s=8,
)
HELD_S = 0.5
"""How long a fault lasts that nobody needs to notice."""
_STAGING = {SlotPhase.PULLING, SlotPhase.STARTING, SlotPhase.CHECKING}
SETTLE_S = 20.0
"""A fault may delay a switch by so much."""


@dataclass(slots=True)
class Trial:
    """Deploys to and fro on one machine, each with a fault in it."""

    at: Machine
    serving: str = ""
    windows: list[tuple[float, float]] = field(default_factory=list)
    """When visitors were allowed to lose requests (monotonic)."""

    def __post_init__(self) -> None:
        self.serving = self.at.a

    async def deploy(
        self, *, staging: Fault | None = None, switch: Fault | None = None, drain: Fault | None = None
    ) -> None:
        """Deploy the other release; each fault strikes in its phase."""
        old, new = self.serving, self.at.b if self.serving == self.at.a else self.at.a
        scenario, host = self.at.scenario, self.at.host

        async def stage() -> None:
            await scenario.consul.put(f"{scenario.app}/stage/image", new)

        if staging is not None and staging.before_staging:
            await self._inject(staging, then=stage)
        else:
            await stage()
            if staging is not None:
                await host.until(_is_staging)
                await self._inject(staging)
        await host.until(lambda report: phase_of(report, new) is SlotPhase.STAGED, deadline_s=60)
        scenario.happened(EventKind.ACTIVATED, new)
        await scenario.consul.put(f"{scenario.app}/active/image", new)
        if switch is not None:
            await self._inject(switch)
        await host.until(lambda report: phase_of(report, new) is SlotPhase.SERVING, deadline_s=60)
        if drain is not None:
            await asyncio.sleep(0.3)
            await self._inject(drain)
        await scenario.retired(old)
        self.serving = new
        await self._is_as_it_should_be()

    async def _inject(self, fault: Fault, then: Step = nothing) -> None:
        began = time.monotonic()
        await fault.inject()
        await then()
        if fault.shown:
            await self.at.host.until(lambda report: fault.shown in _words(report))
        else:
            await asyncio.sleep(HELD_S)
        await fault.mend()
        if fault.costs:
            await self.at.host.until(_serves)
            await asyncio.sleep(1)
            self.windows.append((began, time.monotonic()))

    async def _is_as_it_should_be(self) -> None:
        async def at_rest() -> bool:
            return not (await self.at.host.api("/v1/plan"))["actions"]

        assert await eventually(at_rest, deadline_s=20)
        report = await self.at.host.until(_serves)
        assert phase_of(report, self.serving) is SlotPhase.SERVING
        assert sorted(str(slot.state) for slot in report.slots.values()) == ["maint", "ready"]
        assert len((await self.at.daemon.cli("ps", "-aq")).split()) == 1, "a container is orphaned"

    def judge(self, outcome: Outcome, *, moves: bool) -> None:
        """Fail for a request lost outside the windows, for a visitor moved who should not have been."""
        assert sum(outcome.failed_by_fault.values()) == len(outcome.failures), "more failures than were kept"
        lost = [failure for failure in outcome.failures if not self._is_excused(failure)]
        assert not lost, f"{len(lost)} lost: {lost[:5]}"
        verdict = self.at.scenario.verdict(outcome, settle_s=SETTLE_S)
        assert (verdict.moved_back_and_forth, verdict.early, verdict.stale) == (0, 0, 0), verdict
        assert moves or not verdict.moved_unasked, verdict

    def _is_excused(self, failure: Failure) -> bool:
        return any(began <= failure.failed_at and failure.sent_at <= ended for began, ended in self.windows)


def _is_staging(report: NodeReport) -> bool:
    return any(slot.phase in _STAGING for slot in report.slots.values())


def _serves(report: NodeReport) -> bool:
    return report.is_ready and any(slot.phase is SlotPhase.SERVING and slot.is_up for slot in report.slots.values())


def _words(report: NodeReport) -> str:
    return " ".join([report.error, *report.notes, *(slot.reason for slot in report.slots.values())])


@asynccontextmanager
async def trial(app: str, docker: DockerDaemon, *, live_restore: bool = True) -> AsyncIterator[Trial]:
    async with machine(app, docker, live_restore=live_restore) as at:
        yield Trial(at)


@pytest.mark.full
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(faults.haproxy_killed, id="haproxy-killed"),
        pytest.param(faults.haproxy_reloaded, id="haproxy-reloaded"),
        pytest.param(partial(faults.docker_restarted, live_restore=True), id="docker-restarted-live-restore"),
        pytest.param(partial(faults.docker_restarted, live_restore=False), id="docker-restarted"),
        pytest.param(faults.consul_killed, id="consul-killed"),
        pytest.param(faults.consul_frozen, id="consul-frozen"),
        pytest.param(faults.leader_lost, id="consul-leader-lost"),
        pytest.param(faults.registry_down, id="registry-down"),
        pytest.param(faults.registry_stalled, id="registry-stalled"),
        pytest.param(partial(faults.clock_stepped, seconds=HOUR_S), id="clock-forward"),
        pytest.param(partial(faults.clock_stepped, seconds=-HOUR_S), id="clock-back"),
    ],
)
async def test_a_deploy_survives_a_fault_in_each_phase(
    app_name: str, docker: DockerDaemon, make: Callable[[Machine], Fault], request: pytest.FixtureRequest
) -> None:
    """Three deploys: the fault strikes in staging, right after the activation, and in mid-drain."""
    live_restore = request.node.callspec.id != "docker-restarted"
    async with trial(app_name, docker, live_restore=live_restore) as on:
        fault = make(on.at)
        async with Traffic(on.at.host.target, mix=MODERATE) as traffic:
            await asyncio.sleep(1)
            await on.deploy(staging=fault)
            if not fault.before_staging:
                await on.deploy(switch=fault)
                await on.deploy(drain=fault)
            await asyncio.sleep(1)
            outcome = await traffic.stop()
        on.judge(outcome, moves=fault.moves)


@pytest.mark.timeout(120)
async def test_a_deploy_survives_one_fault_after_another(app_name: str, docker: DockerDaemon) -> None:
    """The registry stalls, Docker restarts, Consul dies, hangs and loses its leader: nobody notices any of it."""
    async with trial(app_name, docker) as on:
        async with Traffic(on.at.host.target, mix=MODERATE) as traffic:
            await on.deploy(
                staging=faults.registry_stalled(on.at),
                switch=faults.leader_lost(on.at),
                drain=faults.docker_restarted(on.at, live_restore=True),
            )
            await on.deploy(
                staging=faults.consul_killed(on.at),
                switch=faults.haproxy_reloaded(on.at),
                drain=faults.consul_frozen(on.at),
            )
            outcome = await traffic.stop()
        on.judge(outcome, moves=False)


@pytest.mark.full
async def test_a_disk_that_fills_up_during_a_pull_is_told_and_the_pull_made_once_there_is_room(
    app_name: str, consul: ConsulServer, images: Images
) -> None:
    """The layers do not fit: Docker's own words, what serves goes on, and the next attempt after there is room."""
    small = await images.testapp("small")
    large = await images.testapp("large", padding_bytes=24 * 1024**2)
    async with separate_daemon(disk="40m") as service:
        daemon = DockerDaemon(service.host, "")
        table = {"socket": service.host, "data_root": str(service.root), "disk_reserve": "1k"}
        async with host(Plan(app_name, settings={"docker": table}), daemon, consul) as one:
            scenario = Scenario(app_name, consul, [one])
            await consul.put(f"{app_name}/active/image", small)
            await one.start_agent()
            await scenario.activate(small)
            async with Traffic(one.target, mix=MODERATE) as traffic:
                await consul.put(f"{app_name}/stage/image", large)
                report = await one.until(lambda report: "no space left on device" in _words(report))
                assert "attempt" in _words(report)
                assert _serves(report)
                await run(["mount", "-o", "remount,size=400m", str(service.root)], timeout_s=10)
                await scenario.stage(large)
                outcome = await traffic.stop()
            assert outcome.failed_by_fault == {}, outcome.failures[:5]

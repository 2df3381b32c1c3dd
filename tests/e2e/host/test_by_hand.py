"""By hand, as in 2014: what a host does with each thing an operator may write, on real servers."""

import asyncio
import time
from contextlib import suppress

import pytest

from agent.core.model.names import SlotName
from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase
from cluster.scenarios.host import Scenario, phase_of, slot_of
from cluster.servers.consul import ConsulServer
from cluster.servers.host import TEST_KNOBS, Host, Plan
from cluster.servers.process import eventually
from cluster.traffic.http import Connection, Head
from cluster.traffic.record import RequestFailedError
from tests.e2e.host.conftest import MakeHost, PushedImages

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def test_with_nothing_recorded_the_holding_page_answers_and_the_first_release_follows_it(
    app_name: str, consul: ConsulServer, make_host: MakeHost, test_images: PushedImages
) -> None:
    """A confirmed absence is a ready host; the first activation, never staged, is staged first and then served."""
    host = await make_host(Plan(app_name))
    scenario = Scenario(app_name, consul, [host])
    await host.start_agent()
    await host.until(lambda report: report.is_ready)
    page = await _get(host, "/")
    assert (page.status, page.fields["retry-after"]) == (503, "5")
    assert (await _get(host, f"/_lb/{app_name}")).status == 200
    await scenario.activate(test_images.a)
    assert (await _get(host, "/")).version == "a"
    assert (await _get(host, f"/_lb/{app_name}")).status == 200


async def test_a_host_that_cannot_read_consul_and_has_no_journal_is_not_ready(
    app_name: str, make_host: MakeHost, own_consul: ConsulServer
) -> None:
    """Unknown is not absent: no holding page, 503 for the balancer, and the reason shown."""
    own_consul.kill()
    host = await make_host(Plan(app_name, settings={"boot_wait": "1s", "consul": {"address": own_consul.address}}))
    await host.start_agent()
    report = await host.until(lambda report: any("journal names no release" in note for note in report.notes))
    assert not report.is_ready
    assert "refused" in " ".join(report.notes)
    assert (await _get(host, f"/_lb/{app_name}")).status == 503


async def test_a_staged_release_changed_before_activation_goes_and_traffic_stays(
    scenario: Scenario, test_images: PushedImages
) -> None:
    """Also when stage/image is set to the active image: withdrawn."""
    (host,) = scenario.hosts
    await scenario.stage(test_images.b)
    serving = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING)
    await scenario.consul.put(f"{scenario.app}/stage/image", test_images.a)
    await scenario.retired(test_images.b)
    report = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING)
    assert report.slots[SlotName.BLUE].container == serving.slots[SlotName.BLUE].container
    await scenario.stage(test_images.b)
    await scenario.consul.put(f"{scenario.app}/stage/image", test_images.sick)
    await host.until(lambda report: phase_of(report, test_images.sick) is SlotPhase.CHECKING)
    assert (await _get(host, "/")).version == "a"


async def test_a_release_that_is_never_healthy_is_refused_with_its_last_log_lines(
    app_name: str, consul: ConsulServer, make_host: MakeHost, test_images: PushedImages
) -> None:
    """The reason names what the probe saw; it is not tried again, and what serves is untouched."""
    host = await make_host(Plan(app_name, knobs={**TEST_KNOBS, "healthy_deadline": "2s"}))
    scenario = Scenario(app_name, consul, [host])
    await host.start_agent()
    await scenario.activate(test_images.a)
    await consul.put(f"{app_name}/stage/image", test_images.sick)
    report = await host.until(lambda report: _failed(report, "last log lines wanted"))
    assert "GET /health answered 500" in _reasons(report)
    assert "testapp" in _reasons(report)
    assert (await _get(host, "/")).version == "a"
    await consul.put(f"{app_name}/stage/image", test_images.exits)
    report = await host.until(lambda report: "exited with code 3" in _reasons(report))
    assert (await _get(host, "/")).version == "a"
    missing = test_images.a.replace(":a-", ":none-")
    await consul.put(f"{app_name}/stage/image", missing)
    report = await host.until(lambda report: "none-finish" in _reasons(report) and _failed(report))
    assert "manifest" in _reasons(report)
    await scenario.stage(test_images.b)


async def test_without_a_free_slot_a_new_stage_waits_with_reason_and_the_way_back_wins(
    app_name: str, consul: ConsulServer, make_host: MakeHost, test_images: PushedImages
) -> None:
    """While a is warm, a third release waits; setting active back to a needs no container."""
    host = await make_host(Plan(app_name, knobs={**TEST_KNOBS, "bake_time": "20s"}))
    scenario = Scenario(app_name, consul, [host])
    await host.start_agent()
    await scenario.activate(test_images.a)
    await scenario.activate(test_images.b)
    await consul.put(f"{app_name}/stage/image", test_images.exits)
    report = await host.until(lambda report: "waits for a free slot" in _reasons(report))
    assert "at most" in _reasons(report)
    container = report.slots[_slot(report, test_images.a)].container
    began = time.monotonic()
    await scenario.take_back(test_images.b, to=test_images.a)
    assert time.monotonic() - began < 5
    report = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING)
    assert report.slots[_slot(report, test_images.a)].container == container


async def test_a_serving_container_that_dies_is_started_again_and_never_replaced(
    scenario: Scenario, test_images: PushedImages
) -> None:
    """The same container, after a pause that grows; a staged release beside it does not take over."""
    (host,) = scenario.hosts
    await scenario.stage(test_images.b)
    report = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING)
    container = report.slots[_slot(report, test_images.a)].container
    with suppress(RequestFailedError):  # it may die before it answers
        await _get(host, "/exit?code=4")
    await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING and report.is_ready)

    async def answers() -> bool:
        return (await _get(host, "/")).version == "a"

    assert await eventually(answers, deadline_s=15)
    report = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING)
    assert report.slots[_slot(report, test_images.a)].container == container


async def test_an_agent_that_ends_leaves_traffic_alone_and_adopts_it_when_it_returns(
    scenario: Scenario, test_images: PushedImages
) -> None:
    """SIGTERM, and later a staged release is still staged: no container is started, no readiness changes."""
    (host,) = scenario.hosts
    await scenario.stage(test_images.b)
    before = await host.until(lambda report: phase_of(report, test_images.b) is SlotPhase.STAGED)
    await host.stop_agent()
    assert (await _get(host, "/")).version == "a"
    await host.start_agent()
    after = await host.until(lambda report: phase_of(report, test_images.b) is SlotPhase.STAGED, deadline_s=10)
    assert {s: r.container for s, r in after.slots.items()} == {s: r.container for s, r in before.slots.items()}
    await scenario.activate(test_images.b)


async def test_a_host_that_leaves_tells_its_balancer_and_goes_on_serving(scenario: Scenario) -> None:
    """`tidegate leave` turns the health path to 503; visitors already there are served; `return` undoes it."""
    (host,) = scenario.hosts
    await host.cli("leave")
    await host.until(lambda report: not report.is_ready)
    assert (await _get(host, f"/_lb/{scenario.app}")).status == 503
    assert (await _get(host, "/")).version == "a"
    await host.cli("return")
    await host.until(lambda report: report.is_ready)
    assert (await _get(host, f"/_lb/{scenario.app}")).status == 200


async def test_the_report_and_both_services_are_in_consul(scenario: Scenario, test_images: PushedImages) -> None:
    """The node's report under <app>-status/nodes, the services with what they serve in their metadata."""
    (host,) = scenario.hosts
    report = await host.until(lambda report: phase_of(report, test_images.a) is SlotPhase.SERVING and report.is_ready)

    async def written() -> bool:
        text = await scenario.consul.get(f"{scenario.app}-status/nodes/web-1")
        meta = (await scenario.consul.services()).get(f"{scenario.app}-web-1", {}).get("Meta", {})
        if text is None or meta.get("image") != test_images.a:
            return False
        # Ages and counts of requests may differ: they are no news and written seldom.
        there = NodeReport.model_validate_json(text)
        facts = [(each.instance, each.is_ready, each.summary, each.wants) for each in (there, report)]
        return facts[0] == facts[1] and there.slots[SlotName.BLUE].container == report.slots[SlotName.BLUE].container

    assert await eventually(written, deadline_s=15)
    services = await scenario.consul.services()
    assert services[f"{scenario.app}-web-1"]["Meta"]["slot"] == "blue"
    assert services["tidegate-agent-web-1"]["Meta"]["instance"] == report.instance


async def test_the_plan_of_a_converged_host_is_empty(scenario: Scenario) -> None:
    """`/v1/plan` shows nothing to do, `/healthz` and `/readyz` are good, metrics speak of the slot."""
    (host,) = scenario.hosts

    async def nothing_to_do() -> bool:
        return not (await host.api("/v1/plan"))["actions"]

    assert await eventually(nothing_to_do, deadline_s=10)
    assert await nothing_to_do()
    shown = await host.cli("status", "--local")
    assert "serving" in shown
    assert "ready" in shown


def _reasons(report: NodeReport) -> str:
    parts = [*report.notes, *(slot.reason for slot in report.slots.values())]
    return " ".join(parts + [line for slot in report.slots.values() for line in slot.lines])


def _failed(report: NodeReport, lines: str = "") -> bool:
    return any(
        slot.phase is SlotPhase.FAILED and (not lines or bool(slot.lines)) and not slot.container
        for slot in report.slots.values()
    )


def _slot(report: NodeReport, image: str) -> SlotName:
    slot = slot_of(report, image)
    assert slot is not None, f"{image} is in no slot"
    return slot


async def _get(host: Host, path: str) -> Head:
    async with asyncio.timeout(10):
        connection = await Connection.open(host.target)
        try:
            await connection.send("GET", path, "Connection: close\r\n")
            head = await connection.read_head()
            await connection.read_body(head)
            return head
        finally:
            connection.close()

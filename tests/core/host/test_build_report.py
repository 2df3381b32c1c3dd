"""What a host says of itself: stable while nothing happens, and never more than is known."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from pydantic import ValidationError

from agent.core.host.build_report import HostView, Identity, report_of
from agent.core.host.desired import Desired, DesiredRelease, HoldingPage, Unchanged
from agent.core.host.memory import Memory
from agent.core.host.observed import Container, ContainerState, Observed, Proxy, Server, Unavailable, Worker
from agent.core.host.plan import Plan, SlotView
from agent.core.model.app import App
from agent.core.model.keys import Unknown
from agent.core.model.names import AppName, ContainerId, Digest, ImageReference, Pin, ReleaseId, SlotName
from agent.core.model.report import NodeReport
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase

IMAGE = ImageReference("shop:1")
IDENTITY = Identity("web-1", "boot.1", "1.0")


def a_server(admin: AdminState, status: str, *, age_s: float = 0.0, open_requests: int = 0) -> Server:
    return Server(admin, status, "L7OK", "", open_requests, 1 if open_requests else 0, age_s)


UP = a_server(AdminState.READY, "UP")
MAINT = a_server(AdminState.MAINT, "MAINT")


def a_container(slot: SlotName = SlotName.BLUE) -> Container:
    return Container(
        id=ContainerId("f" * 64),
        slot=slot,
        reference=IMAGE,
        digest=Digest("sha256:" + "a" * 64),
        release=ReleaseId("a" * 12),
        pin=Pin("b" * 12),
        generation=4,
        occupancy=1,
        state=ContainerState.RUNNING,
    )


def a_proxy(blue: Server, green: Server = MAINT, gate: ReadinessGate = ReadinessGate.OPEN) -> Proxy:
    servers: Mapping[SlotName, Server] = {SlotName.BLUE: blue, SlotName.GREEN: green}
    return Proxy(
        Worker(1, 1), servers, {}, pins_saved=True, gate=gate, gate_saved=True, old_workers=0, state_saved=True
    )


def a_view(proxy: Proxy | Unavailable, **phases: SlotPhase) -> HostView:
    views = {slot: SlotView(phases.get(slot, SlotPhase.EMPTY)) for slot in SlotName}
    return HostView(
        app=App(name=AppName("shop")),
        observed=Observed((a_container(),), proxy, {}, (), {}),
        desired=Desired(DesiredRelease(IMAGE, "wish")),
        plan=Plan((), 0.0, Memory(), views),
        outcome=Unknown("test"),
    )


def test_a_serving_host() -> None:
    """Every field an operator or a coordinator goes by."""
    report = report_of(a_view(a_proxy(UP), blue=SlotPhase.SERVING), IDENTITY)
    blue = report.slots[SlotName.BLUE]
    assert (report.app, report.node, report.instance, report.agent) == ("shop", "web-1", "boot.1", "1.0")
    assert (report.phase, report.is_ready, report.wants, report.gate) == (
        SlotPhase.SERVING,
        True,
        IMAGE,
        ReadinessGate.OPEN,
    )
    assert report.summary == "blue serving shop:1"
    assert (blue.image, blue.release, blue.generation, blue.container) == (IMAGE, "a" * 12, 4, "f" * 12)
    assert (blue.state, blue.is_up) == (AdminState.READY, True)
    assert NodeReport.model_validate_json(report.model_dump_json(exclude_defaults=True)) == report


@pytest.mark.parametrize("age_s", [0.0, 3.0, 999.0])
@pytest.mark.parametrize("open_requests", [0, 7])
def test_traffic_on_the_serving_slot_changes_nothing(age_s: float, open_requests: int) -> None:
    """Otherwise a busy fleet would write its reports without end."""
    quiet = report_of(a_view(a_proxy(UP), blue=SlotPhase.SERVING), IDENTITY)
    busy = a_server(AdminState.READY, "UP", age_s=age_s, open_requests=open_requests)
    assert report_of(a_view(a_proxy(busy), blue=SlotPhase.SERVING), IDENTITY) == quiet


def test_a_host_that_leaves_counts_what_is_open_on_the_serving_slot() -> None:
    """A shutdown, and an instance's end, wait for it."""
    view = a_view(a_proxy(a_server(AdminState.READY, "UP", open_requests=7)), blue=SlotPhase.SERVING)
    leaving = replace(view, plan=replace(view.plan, memory=Memory(leaving=True)))
    report = report_of(leaving, IDENTITY)
    assert (report.slots[SlotName.BLUE].open_requests, report.is_quiet) == (8, False)
    assert report_of(replace(leaving, observed=replace(leaving.observed, proxy=a_proxy(UP))), IDENTITY).is_quiet
    assert not report_of(view, IDENTITY).is_quiet, "not counted is not empty"


@pytest.mark.parametrize(("age_s", "shown"), [(0.0, 0), (4.9, 0), (5.0, 5), (64.2, 60)])
def test_the_age_of_the_last_request_is_told_of_a_slot_that_empties(age_s: float, shown: int) -> None:
    """Rounded down to five seconds: idleness is never overstated."""
    draining = a_server(AdminState.DRAIN, "DRAIN", age_s=age_s, open_requests=2)
    blue = report_of(a_view(a_proxy(draining), blue=SlotPhase.DRAINING), IDENTITY).slots[SlotName.BLUE]
    assert (blue.last_request_age_s, blue.open_requests) == (shown, 3)


def test_unknown_is_not_told_as_empty_or_ready() -> None:
    """S12: without HAProxy there are no states, no counts, and the host is not ready."""
    view = a_view(Unavailable("away"), blue=SlotPhase.UNKNOWN, green=SlotPhase.UNKNOWN)
    report = report_of(view, IDENTITY)
    blue = report.slots[SlotName.BLUE]
    assert (report.is_ready, report.gate, report.old_workers) == (False, None, None)
    assert (blue.state, blue.is_up, blue.open_requests, blue.last_request_age_s) == (None, False, None, None)
    blind = replace(view, observed=replace(view.observed, containers=Unavailable("away")))
    assert report_of(blind, IDENTITY).slots[SlotName.BLUE].image == ""


@pytest.mark.parametrize(
    ("proxy", "ready"),
    [
        (a_proxy(UP), True),
        (a_proxy(UP, gate=ReadinessGate.CLOSED), False),
        (a_proxy(MAINT, gate=ReadinessGate.HOLDING), True),
        (a_proxy(MAINT), False),
        (a_proxy(a_server(AdminState.READY, "DOWN")), False),
        (a_proxy(a_server(AdminState.DRAIN, "DRAIN")), False),
    ],
)
def test_ready_is_what_load_balancers_are_told(proxy: Proxy, ready: bool) -> None:
    """The gate, and a slot that takes new visitors and is up, or the holding page."""
    assert report_of(a_view(proxy), IDENTITY).is_ready is ready


@pytest.mark.parametrize(
    ("blue", "green", "told"),
    [
        (SlotPhase.SERVING, SlotPhase.FAILED, SlotPhase.FAILED),
        (SlotPhase.SERVING, SlotPhase.PULLING, SlotPhase.PULLING),
        (SlotPhase.SERVING, SlotPhase.STAGED, SlotPhase.STAGED),
        (SlotPhase.SERVING, SlotPhase.EMPTY, SlotPhase.SERVING),
        (SlotPhase.EMPTY, SlotPhase.EMPTY, SlotPhase.EMPTY),
    ],
)
def test_the_phase_of_the_host_is_that_of_the_slot_to_look_at(
    blue: SlotPhase, green: SlotPhase, told: SlotPhase
) -> None:
    """What failed before what moves before what stands."""
    assert report_of(a_view(a_proxy(UP), blue=blue, green=green), IDENTITY).phase is told


@pytest.mark.parametrize("phase", list(SlotPhase))
def test_every_phase_has_its_place(phase: SlotPhase) -> None:
    """A phase nobody ordered would break the report of the whole host."""
    assert report_of(a_view(a_proxy(UP), blue=phase), IDENTITY).slots[SlotName.BLUE].phase is phase


def test_what_is_wanted_is_told_in_words() -> None:
    """A reference, nothing recorded yet, or why nothing is changed; and what is held beside it."""
    view = a_view(a_proxy(UP), blue=SlotPhase.SERVING)
    for desired, wants, holds in (
        (Desired(HoldingPage()), "nothing recorded yet: the holding page", ""),
        (Desired(Unchanged("Consul is away")), "as it is: Consul is away", ""),
        (Desired(DesiredRelease(IMAGE, "w"), hold=DesiredRelease(ImageReference("shop:2"), "h")), IMAGE, "shop:2"),
    ):
        report = report_of(replace(view, desired=desired), IDENTITY)
        assert (report.wants, report.holds) == (wants, holds)


def test_the_summary_is_short_and_says_when_nothing_runs() -> None:
    """And that the holding page answers."""
    view = a_view(a_proxy(MAINT))
    assert view.summary == "nothing runs"
    holding = replace(view, plan=replace(view.plan, memory=Memory(holding=True)))
    assert holding.summary == "holding page"


def test_a_newer_report_of_the_same_version_is_read() -> None:
    """Readers ignore fields they do not know."""
    text = report_of(a_view(a_proxy(UP), blue=SlotPhase.SERVING), IDENTITY).model_dump_json()
    assert NodeReport.model_validate_json(text.replace('{"v":1', '{"new":2,"v":1', 1)).app == "shop"


@pytest.mark.parametrize(
    ("written", "lie"),
    [
        ('"generation":0', '"generation":9007199254740992'),
        ('"seq":0', f'"seq":{"9" * 400}'),
        ('"since":null', '"since":NaN'),
        ('"since":null', '"since":1e300'),
        ('"old_workers":0', '"old_workers":-1'),
    ],
)
def test_a_number_that_nobody_can_count_with_makes_a_report_unreadable(written: str, lie: str) -> None:
    """Whoever wrote it: what is decided by reports is computed from such numbers."""
    text = report_of(a_view(a_proxy(UP), blue=SlotPhase.SERVING), IDENTITY).model_dump_json()
    assert written in text
    with pytest.raises(ValidationError):
        NodeReport.model_validate_json(text.replace(written, lie, 1))

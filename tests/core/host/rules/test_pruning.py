"""Images and disk: what is removed, what never is, and when a pull waits."""

from dataclasses import replace

import pytest

from agent.core.host.actions import Prune, Pull, Stop
from agent.core.host.decide import decide
from agent.core.host.desired import Desired, DesiredRelease
from agent.core.host.memory import Memory, PulledImage
from agent.core.host.observed import (
    Container,
    ContainerState,
    Disk,
    Job,
    JobKind,
    JobResult,
    Observed,
    Proxy,
    Server,
    Worker,
)
from agent.core.host.plan import Plan
from agent.core.host.plan_builder import DecisionInput
from agent.core.model.app import App, DeployTimings
from agent.core.model.names import ContainerId, Digest, ImageReference, Pin, ReleaseId, SlotName
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase

APP = App.model_validate({"name": "shop", "knobs": DeployTimings(keep_releases=2)})


def _digest(name: str) -> Digest:
    return Digest(f"sha256:{name * 64}")


def _server(admin: AdminState) -> Server:
    up = admin is AdminState.READY
    return Server(admin, "UP" if up else "MAINT", "L7OK" if up else "", "", 0, 0, 5.0)


OBSERVED = Observed(
    containers=(
        Container(
            id=ContainerId("c" * 64),
            slot=SlotName.BLUE,
            reference=ImageReference("app:a"),
            digest=_digest("a"),
            release=ReleaseId("a" * 12),
            pin=Pin("a" * 12),
            generation=0,
            occupancy=1,
            state=ContainerState.RUNNING,
        ),
    ),
    proxy=Proxy(
        worker=Worker(1, 1),
        servers={SlotName.BLUE: _server(AdminState.READY), SlotName.GREEN: _server(AdminState.MAINT)},
        pins={SlotName.BLUE: Pin("a" * 12)},
        pins_saved=True,
        gate=ReadinessGate.OPEN,
        gate_saved=True,
        old_workers=0,
        state_saved=True,
    ),
    health={},
    jobs=(),
    images={},
)
SERVES_A = Desired(DesiredRelease(ImageReference("app:a"), key="app:a#1"))


def _pulled(*names: str) -> Memory:
    images = (PulledImage(reference=ImageReference(f"app:{name}"), digest=_digest(name)) for name in names)
    return Memory(pulled=tuple(images))


def _plan(memory: Memory, observed: Observed = OBSERVED, desired: Desired = SERVES_A, now: float = 100.0) -> Plan:
    return decide(DecisionInput(APP, observed, desired, memory, now))


def test_the_oldest_image_beyond_keep_releases_is_removed() -> None:
    """Of ours, one at a time, the oldest first."""
    assert _plan(_pulled("d", "e", "f", "b")).actions == (Prune(ImageReference("app:d"), _digest("d")),)


def test_keep_releases_images_stay() -> None:
    """Nothing is removed while there are no more than that."""
    assert _plan(_pulled("e", "f")).actions == ()


def test_an_image_in_a_slot_is_never_removed() -> None:
    """However old it is."""
    assert _plan(_pulled("a", "e", "f")).actions == ()


def test_nothing_is_removed_while_a_job_is_under_way() -> None:
    """A pull or a start may be about to need it."""
    observed = replace(OBSERVED, jobs=(Job(JobKind.PULL, "app:a", 1.0),))
    assert not [action for action in _plan(_pulled("d", "e", "f"), observed).actions if isinstance(action, Prune)]


def test_a_refused_removal_is_tried_again_an_hour_later() -> None:
    """Another container uses the image: it stays in the books."""
    refused = JobResult(JobKind.PRUNE, _digest("d"), error="image is being used")
    plan = _plan(_pulled("d", "e", "f"), replace(OBSERVED, results=(refused,)))
    assert plan.actions == ()
    assert plan.memory.pulled[0].retry_at == 3700.0
    assert _plan(plan.memory, now=3701.0).actions == (Prune(ImageReference("app:d"), _digest("d")),)


def test_a_removed_image_is_forgotten() -> None:
    """Its result ends the matter."""
    done = JobResult(JobKind.PRUNE, _digest("d"))
    assert [
        image.reference for image in _plan(_pulled("d", "e"), replace(OBSERVED, results=(done,))).memory.pulled
    ] == ["app:e"]


@pytest.mark.parametrize(("is_new", "known"), [(True, ["app:b"]), (False, [])])
def test_only_an_image_that_our_pull_brought_is_ours(is_new: bool, known: list[str]) -> None:
    """One that was there before is another tool's."""
    result = JobResult(JobKind.PULL, "app:b", digest=_digest("b"), is_new_image=is_new)
    memory = _plan(Memory(), replace(OBSERVED, results=(result,))).memory
    assert [image.reference for image in memory.pulled] == known


def test_a_pull_waits_for_disk_space_with_the_reason() -> None:
    """And begins when there is enough."""
    wants_b = replace(SERVES_A, hold=DesiredRelease(ImageReference("app:b"), key="app:b#2"))
    low = _plan(Memory(), replace(OBSERVED, disk=Disk(10, 20)), wants_b)
    assert low.actions == ()
    assert low.views[SlotName.GREEN].phase is SlotPhase.WAITING
    assert "disk space" in low.views[SlotName.GREEN].reason
    enough = _plan(Memory(), replace(OBSERVED, disk=Disk(20, 20)), wants_b)
    assert enough.actions == (Pull(ImageReference("app:b")),)


def test_a_container_is_stopped_with_the_grace_of_its_own_spec() -> None:
    """The spec's, as Docker keeps it; the app's knob only where the spec said nothing."""
    (serving,) = OBSERVED.containers if isinstance(OBSERVED.containers, tuple) else ()
    old = replace(serving, slot=SlotName.GREEN, id=ContainerId("d" * 64), reference=ImageReference("app:old"))
    for own, expected in ((42.0, 42.0), (None, APP.knobs.stop_grace_period)):
        observed = replace(OBSERVED, containers=(serving, replace(old, stop_grace_s=own)))
        stops = [action for action in _plan(Memory(), observed).actions if isinstance(action, Stop)]
        assert [stop.grace_s for stop in stops] == [expected]

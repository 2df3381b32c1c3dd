"""A host by hand, as an operator sees it: each flow on the simulated host, from the first boot to a bad release."""

import itertools

import pytest

from agent.core.host.actions import Pull, Run, Start, Stop, Switch
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase
from tests.sim.host import operator_model as host
from tests.sim.host.fixtures import admin, booted, gate, kinds, phase, reason, serves, staged, switched, watched

BLUE, GREEN = SlotName.BLUE, SlotName.GREEN


def test_a_host_boots_from_the_active_image() -> None:
    """Pull, run, check, switch; the gate was never open for nothing."""
    world, taken = watched()
    host.activate(world, "app:a")
    assert world.run_for(10, lambda: serves(world, "app:a"))
    jobs = [action for action in taken if isinstance(action, Pull | Run | Switch)]
    assert kinds(list(jobs)) == ["Pull", "Run", "Switch"]


def test_the_holding_page_answers_until_the_first_release_serves() -> None:
    """Nothing is recorded: ready, and no slot serves; then the gate goes to open."""
    world, _ = watched()
    world.run_for(1)
    assert gate(world) is ReadinessGate.HOLDING
    host.activate(world, "app:a")
    assert world.run_for(10, lambda: serves(world, "app:a"))
    world.run_for(1)
    assert gate(world) is ReadinessGate.OPEN


def test_a_release_is_staged_switched_to_baked_drained_and_the_old_one_retired() -> None:
    """The whole way, and nobody is moved or refused."""
    world, _ = staged()
    failed = world.failed
    assert serves(world, "app:a")
    host.activate(world, "app:b")
    assert world.run_for(1, lambda: serves(world, "app:b"))
    assert admin(world, BLUE) is AdminState.DRAIN
    world.run_for(1.5)
    assert phase(world, BLUE) is SlotPhase.DRAINING
    assert "at most" in reason(world, BLUE)
    assert host.settle(world)
    assert [container.reference for container in world.docker.containers_by_id.values()] == ["app:b"]
    assert world.failed == failed
    assert dict(world.monitor.breaches) == {}


def test_the_old_release_stays_warm_for_bake_time_though_nobody_visits() -> None:
    """Then it goes after visit_idle of silence."""
    world, taken = switched()
    for visitor in world.visitors:
        visitor.silent_until = 1e9
    began = world.now
    assert world.run_for(30, lambda: any(isinstance(action, Stop) for action in taken))
    assert world.now - began >= world.app.knobs.bake_time
    assert world.now - began <= world.app.knobs.visit_idle + 4


@pytest.mark.parametrize("wait_s", [0.2, 3.0])
def test_rollback_while_warm_starts_no_container(wait_s: float) -> None:
    """`active/image` set back: one switch, no Pull, Run or Start, and only holders of the new release move."""
    world, taken = switched()
    world.run_for(wait_s)
    taken.clear()
    host.activate(world, "app:a")
    assert world.run_for(1, lambda: serves(world, "app:a"))
    assert admin(world, GREEN) is AdminState.DRAIN or admin(world, GREEN) is AdminState.MAINT
    host.settle(world)
    assert not [action for action in taken if isinstance(action, Pull | Run | Start)]
    assert dict(world.monitor.breaches) == {}


def test_an_image_that_was_never_staged_is_staged_first() -> None:
    """Then switched to; the serving one serves meanwhile."""
    world, taken = booted()
    failed = world.failed
    host.activate(world, "app:b")
    assert world.run_for(10, lambda: serves(world, "app:b"))
    order = [name for name in kinds(taken) if name in ("Pull", "Run", "Switch")]
    assert order == ["Pull", "Run", "Switch"]
    assert world.failed == failed


@pytest.mark.parametrize("to", ["app:c", "app:a"])
def test_a_staged_release_that_is_no_longer_wanted_goes_unseen(to: str) -> None:
    """`stage/image` changed, or set to the active image: the container goes, traffic is untouched."""
    world, taken = staged()
    host.stage(world, to)
    assert world.run_for(5, lambda: world.occupant(GREEN) is None)
    assert not [action for action in taken if isinstance(action, Switch)]
    assert serves(world, "app:a")
    host.settle(world)
    expected = ["app:a"] if to == "app:a" else ["app:a", to]
    assert sorted(container.reference for container in world.docker.containers_by_id.values()) == expected
    assert dict(world.monitor.breaches) == {}


def test_a_release_without_a_free_slot_waits_with_reason_and_time() -> None:
    """The other slot still drains: who holds it and for how long at most is shown."""
    world, _ = switched()
    host.stage(world, "app:c")
    world.run_for(2)
    assert world.agent.plan is not None
    shown = " ".join(world.agent.plan.notes)
    assert "app:c: waits for a free slot" in shown
    assert "slot blue is taken (draining" in shown
    assert "at most" in shown
    assert serves(world, "app:b")


def test_active_set_back_wins_over_a_waiting_stage() -> None:
    """The way back is not blocked by what waits for a slot."""
    world, taken = switched()
    host.stage(world, "app:c")
    world.run_for(1)
    taken.clear()
    host.activate(world, "app:a")
    assert world.run_for(1, lambda: serves(world, "app:a"))
    assert not [action for action in taken if isinstance(action, Run)]


def test_a_held_warm_release_gives_its_slot_to_the_one_that_is_to_serve() -> None:
    """Staged again while it drained, it would else block the next activation for ever."""
    world, _ = switched()
    host.activate(world, "app:c")
    host.stage(world, "app:a")
    assert world.run_for(40, lambda: serves(world, "app:c"))
    assert dict(world.monitor.breaches) == {}


def test_what_served_since_a_rollout_keeps_its_visitors_when_another_image_is_activated() -> None:
    """Both keys name the rollout's release; an older stage key then names what nobody took back."""
    world, _ = booted()
    host.deploy(world, "app:b")
    end = world.now + 60
    while world.now < end:
        world.step()
        host.coordinate(world)
    host.activate(world, "app:c")
    assert world.run_for(10, lambda: serves(world, "app:c"))
    world.run_for(1)
    assert admin(world, GREEN) is AdminState.DRAIN
    assert dict(world.monitor.breaches) == {}


@pytest.mark.parametrize(
    ("reference", "why", "lines"),
    [
        ("app:n-never", "not healthy within healthy_deadline", True),
        ("app:e-exits", "container exited with code 1", True),
        ("app:u-unknown", "manifest unknown", False),
    ],
)
def test_a_bad_release_is_refused_with_reason_and_lines(reference: str, why: str, lines: bool) -> None:
    """Traffic is untouched, and it is not tried again until asked anew."""
    world, taken = booted()
    failed = world.failed
    host.activate(world, reference)
    world.run_for(25)
    assert serves(world, "app:a")
    assert world.failed == failed
    assert phase(world, GREEN) is SlotPhase.FAILED
    assert why in reason(world, GREEN)
    assert world.agent.plan is not None
    assert bool(world.agent.plan.views[GREEN].lines) is lines
    taken.clear()
    world.run_for(90)
    assert taken == []
    host.activate(world, "app:a")
    world.run_for(1)
    host.activate(world, reference)
    assert world.run_for(3, lambda: any(isinstance(action, Pull | Run) for action in taken))


def test_a_bad_release_is_tried_again_with_growing_pauses_when_nothing_serves() -> None:
    """There is nothing to lose by another attempt."""
    world, taken = watched()
    host.activate(world, "app:e-exits")
    begun: list[float] = []

    def count() -> bool:
        if len([action for action in taken if isinstance(action, Run)]) > len(begun):
            begun.append(world.now)
        return len(begun) >= 5

    assert world.run_for(120, count)
    pauses = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 2 * pauses[0]
    assert "attempt" in reason(world, BLUE) or phase(world, BLUE) is SlotPhase.STARTING


def test_a_dead_serving_container_is_restarted_and_never_replaced() -> None:
    """With growing pauses; the same container, the same release."""
    world, taken = booted()
    serving = world.serving()
    assert serving is not None
    died: list[float] = []
    for _ in range(4):
        host.die(world, BLUE)
        taken.clear()
        died.append(world.now)
        assert world.run_for(30, lambda: any(isinstance(action, Start) for action in taken))
        died[-1] = world.now - died[-1]
        assert world.run_for(5, lambda: world.docker.in_slot(BLUE) is not None)
    assert died == sorted(died)
    assert died[-1] >= 3.9
    assert world.docker.in_slot(BLUE) is not None
    assert {container.id for container in world.docker.containers_by_id.values()} == {serving.id}
    world.run_for(100)
    assert world.agent.memory.slot(BLUE).restarts == 0

"""Slots in odd states: what Docker, a crash or a person may leave behind, and how a plan reads."""

from dataclasses import replace

import pytest

from agent.core.host.actions import CancelPull, Pull, Run, SetPins, SetReadinessGate, ShutdownSessions, Start, Stop
from agent.core.host.observed import ContainerState
from agent.core.model.names import ContainerId, ImageReference, SlotName
from agent.core.model.record import Phase, RolloutRecord
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase
from tests.sim.host import operator_model as host
from tests.sim.host.consul_model import recorded
from tests.sim.host.docker_model import digest_of
from tests.sim.host.fixtures import booted, phase, reason, serves, staged, switched
from tests.sim.host.proxy_model import Srv
from tests.sim.host.world import World

BLUE, GREEN = SlotName.BLUE, SlotName.GREEN


def paused_in_green(state: ContainerState) -> World:
    """Return a world whose staged container in green is in *state*."""
    world, _ = staged()
    occupant = world.occupant(GREEN)
    assert occupant is not None
    world.label(occupant.id, state=state, exit_code=None)
    world.run_for(0.3)
    return world


@pytest.mark.parametrize("state", [ContainerState.PAUSED, ContainerState.REMOVING, ContainerState.RESTARTING])
def test_a_staged_container_in_a_state_that_is_not_ours_is_waited_for(state: ContainerState) -> None:
    """Until healthy_deadline; then it has failed."""
    world = paused_in_green(state)
    assert reason(world, GREEN) == f"container is {state}, not by Tidegate"
    assert world.run_for(15, lambda: phase(world, GREEN) is SlotPhase.FAILED)
    assert "not running, within healthy_deadline" in reason(world, GREEN)
    assert serves(world, "app:a")


def test_a_dead_container_that_serves_is_removed_to_make_place() -> None:
    """Docker's `dead` cannot be started again; the same release takes its place."""
    world, taken = booted()
    occupant = world.occupant(BLUE)
    assert occupant is not None
    world.label(occupant.id, state=ContainerState.DEAD, exit_code=137)
    world.monitor.excused.add(occupant.id)
    assert world.run_for(1, lambda: any(isinstance(action, Stop) for action in taken))
    assert world.run_for(20, lambda: serves(world, "app:a"))


def test_a_container_that_cannot_be_started_fails_at_the_deadline() -> None:
    """With pauses between the attempts, not in a tight loop."""
    world, taken = staged()
    occupant = world.occupant(GREEN)
    assert occupant is not None
    error = "exec: no such file"
    world.label(occupant.id, state=ContainerState.CREATED, error=error)
    end = world.now + 25
    while world.now < end and phase(world, GREEN) is not SlotPhase.FAILED:
        world.step()
        if occupant.id in world.docker.containers_by_id:
            world.label(occupant.id, state=ContainerState.CREATED, error=error)
    assert error in reason(world, GREEN)
    assert 2 <= len([action for action in taken if isinstance(action, Start)]) <= 6


def test_a_staged_container_that_exits_is_started_and_checked_anew_once() -> None:
    """It was fine once; it has to be healthy for min_healthy_time again, and a second exit in that time fails it."""
    world, taken = staged()
    host.die(world, GREEN)
    assert world.run_for(1, lambda: any(isinstance(action, Start) for action in taken))
    assert world.run_for(1, lambda: world.docker.in_slot(GREEN) is not None)
    assert phase(world, GREEN) is not SlotPhase.STAGED
    host.die(world, GREEN)
    world.run_for(0.5)
    assert phase(world, GREEN) is SlotPhase.FAILED
    assert "exited with code 137" in reason(world, GREEN)


def test_what_a_crash_left_beside_a_tenant_is_removed_one_job_at_a_time() -> None:
    """A slot has one job at most, also when its occupant needs one, too."""
    world, taken = booted()
    occupant = world.occupant(BLUE)
    assert occupant is not None
    double = replace(occupant, id=ContainerId("d" * 64), occupancy=0, state=ContainerState.EXITED, exit_code=0)
    world.docker.containers_by_id[double.id] = double
    host.die(world, BLUE)
    assert world.run_for(5, lambda: double.id not in world.docker.containers_by_id)
    assert world.run_for(5, lambda: serves(world, "app:a"))
    assert world.monitor.breaches.get("jobs", []) == []
    assert [action.container for action in taken if isinstance(action, Stop)] == [double.id]


def test_a_staged_release_that_turns_sick_is_not_switched_to() -> None:
    """It fails at the deadline, and the reason says what the probe got."""
    world, _ = staged()
    occupant = world.occupant(GREEN)
    assert occupant is not None
    world.docker.sick.add(occupant.id)
    world.run_for(1)
    host.activate(world, "app:b")
    world.run_for(20)
    assert serves(world, "app:a")
    assert "unhealthy: refused" in reason(world, GREEN)


def test_a_serving_release_that_turns_sick_is_shown_and_kept() -> None:
    """Tidegate does not stop what serves because a check fails."""
    world, taken = booted()
    occupant = world.occupant(BLUE)
    assert occupant is not None
    world.docker.sick.add(occupant.id)
    world.run_for(40)
    assert taken == []
    assert reason(world, BLUE).startswith("HAProxy says DOWN, L4CON")


def test_a_pull_that_nobody_wants_any_more_is_cancelled() -> None:
    """And its release never comes."""
    world, taken = booted()
    host.stage(world, "app:b")
    world.run_for(0.2)
    host.withdraw(world)
    world.run_for(0.2)
    assert [action for action in taken if isinstance(action, Pull | CancelPull)] == [
        Pull(ImageReference("app:b")),
        CancelPull(ImageReference("app:b")),
    ]


def test_actions_say_what_they_do() -> None:
    """For the log, the dry run and the command line."""
    world, taken = booted()
    host.stage(world, "app:b")
    world.run_for(5)
    shown = "\n".join(map(str, taken))
    for words in ("pull app:b", f"run app:b ({digest_of('app:b')[:19]}) in slot green", "pin visitors: blue=", "save"):
        assert words in shown
    assert str(CancelPull(ImageReference("app:b"))) == "cancel the pull of app:b"
    assert str(Start(BLUE, ContainerId("f" * 64), "it died")) == "start container ffffffffffff in slot blue: it died"
    assert str(ShutdownSessions(BLUE, "2 open requests")) == "cut the open requests of slot blue: 2 open requests"
    assert str(SetReadinessGate(ReadinessGate.CLOSED)) == "set the readiness gate to closed"
    assert str(SetPins({})) == "pin visitors: none"


def test_a_release_staged_beside_the_holding_page_can_be_withdrawn() -> None:
    """Nothing serves, nothing is recorded to serve: the staged one goes when another is staged."""
    world = World()
    world.run_for(1)
    host.stage(world, "app:a")
    assert world.run_for(10, lambda: phase(world, BLUE) is SlotPhase.STAGED)
    host.stage(world, "app:b")
    assert world.run_for(10, lambda: [c.reference for c in world.docker.containers_by_id.values()] == ["app:b"])
    assert world.serving() is None
    assert world.proxy.process.gate is ReadinessGate.HOLDING


def test_an_interrupted_switch_to_a_slot_that_is_down_keeps_the_other_in_traffic() -> None:
    """S1: both are ready; the old one leaves only when HAProxy calls the new one up."""
    world, _ = staged()
    occupant = world.occupant(GREEN)
    assert occupant is not None
    world.docker.sick.add(occupant.id)
    server = world.proxy.process.servers[GREEN]
    server.admin, server.up = AdminState.READY, False
    host.activate(world, "app:b")
    world.monitor.visited.add(occupant.id)
    world.run_for(3)
    assert serves(world, "app:a")
    assert reason(world, BLUE) == "until HAProxy calls slot green up"
    world.docker.sick.clear()
    assert world.run_for(3, lambda: world.proxy.process.servers[BLUE].admin is AdminState.DRAIN)


def test_a_drained_slot_alone_is_put_back_after_a_restart_of_haproxy() -> None:
    """The serving one came back by the state file; the one that drained did not."""
    world, _ = switched()
    world.run_for(1)
    world.proxy.saved_states = {**(world.proxy.saved_states or {}), BLUE: Srv()}
    host.restart_proxy(world, keep=True)
    world.run_for(1.3)
    assert world.proxy.process.servers[BLUE].admin is AdminState.DRAIN


def test_haproxy_restarted_and_docker_away_the_serving_slot_comes_back_all_the_same() -> None:
    """What served a moment ago is put back on memory alone."""
    world, _ = booted()
    world.docker.set_away(is_away=True)
    host.restart_proxy(world, keep=False)
    world.run_for(1.3)
    assert world.proxy.process.servers[BLUE].admin is AdminState.READY


def test_a_run_that_fails_is_shown_with_its_reason() -> None:
    """Docker refused it: not tried again until asked anew."""
    world, taken = booted()
    world.docker.refuses_to_run = "no space left on device"
    host.stage(world, "app:b")
    assert world.run_for(5, lambda: any(isinstance(action, Run) for action in taken))
    taken.clear()
    world.run_for(40)
    assert phase(world, GREEN) is SlotPhase.FAILED
    assert "no space left on device" in reason(world, GREEN)
    assert not [action for action in taken if isinstance(action, Run)]


def test_a_pull_that_may_pass_is_tried_again_after_a_pause() -> None:
    """A transient error: attempt 2 is announced and made."""
    world, taken = booted()
    world.docker.fails_to_pull = "registry away"
    host.stage(world, "app:b")
    world.run_for(1.2)
    world.docker.fails_to_pull = ""
    assert reason(world, GREEN).startswith("app:b: registry away; attempt 2 in")
    assert world.run_for(10, lambda: phase(world, GREEN) is SlotPhase.STAGED)
    assert len([action for action in taken if isinstance(action, Pull)]) == 2


def test_a_new_host_takes_the_active_image_after_rollback_failed() -> None:
    """It serves nothing yet; a host that serves keeps what it has."""
    world = World()
    record = RolloutRecord(generation=1, seq=9, phase=Phase.ROLLBACK_FAILED, target=recorded("app:b", 1))
    world.monitor.activate("app:a")
    world.consul.write_record(record, active="app:a")
    assert world.run_for(10, lambda: serves(world, "app:a"))
    world.run_for(40)
    assert world.agent.plan is not None
    assert world.agent.plan.actions == ()
    assert "rollback_failed" in " ".join(world.agent.plan.notes)


def test_a_release_that_is_being_run_in_one_slot_is_not_run_in_the_other_that_becomes_free() -> None:
    """Docker lists a container only once it is made; until then it was run a second time where a slot came free."""
    world, taken = booted()
    host.activate(world, "app:b")
    assert world.run_for(5, lambda: any(isinstance(action, Run) for action in taken))
    made, old = world.occupant(GREEN), world.occupant(BLUE)
    assert made is not None
    assert old is not None
    del world.docker.containers_by_id[made.id], world.docker.containers_by_id[old.id]
    world.proxy.process.servers[BLUE] = Srv()
    world.proxy.requests.clear()
    world.monitor.excused.add(old.id)
    taken.clear()
    world.run_for(0.15)
    assert not [action for action in taken if isinstance(action, Run)]
    assert phase(world, GREEN) is SlotPhase.STARTING


def test_a_second_container_of_the_release_that_serves_gives_back_its_slot() -> None:
    """However it came there: a slot is free again, and what serves goes on."""
    world, _ = booted()
    occupant = world.occupant(BLUE)
    assert occupant is not None
    double = replace(occupant, id=ContainerId("d" * 64), slot=GREEN, occupancy=occupant.occupancy + 1)
    world.docker.put(double, started_at=world.now)
    assert world.run_for(5, lambda: world.occupant(GREEN) is None)
    assert serves(world, "app:a")


def test_of_two_containers_of_one_release_one_stays_also_where_one_has_died() -> None:
    """Whichever is worth more; the release goes on serving."""
    world, _ = booted()
    occupant = world.occupant(BLUE)
    assert occupant is not None
    host.die(world, BLUE)
    double = replace(occupant, id=ContainerId("d" * 64), slot=GREEN, occupancy=occupant.occupancy + 1)
    world.docker.put(double, started_at=world.now)
    assert world.run_for(20, lambda: sum(world.occupant(slot) is None for slot in SlotName) == 1)
    assert world.run_for(20, lambda: serves(world, "app:a"))

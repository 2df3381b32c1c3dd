"""A host whose parts die, go away or are restarted: each case on the simulated host."""

from collections.abc import Callable

import pytest

from agent.core.host.actions import Action, Pull, Run, SetState, ShutdownSessions, Stop, Switch
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase
from tests.sim.host import operator_model as host
from tests.sim.host.fixtures import admin, booted, gate, kinds, phase, reason, serves, staged, switched
from tests.sim.host.world import World

BLUE, GREEN = SlotName.BLUE, SlotName.GREEN


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("begin", [booted, staged, switched])
def test_after_a_restart_of_haproxy_the_slots_are_put_back(
    begin: Callable[[], tuple[World, list[Action]]], keep: bool
) -> None:
    """With the state file they are there at once; without it the serving slot comes first."""
    world, taken = begin()
    world.run_for(1.5)
    before = {slot: admin(world, slot) for slot in SlotName}
    taken.clear()
    host.restart_proxy(world, keep=keep)
    world.run_for(1.3)  # it is asked once a second
    assert {slot: admin(world, slot) for slot in SlotName} == before
    if not keep:
        assert isinstance(taken[0], Switch)
        assert taken[0].restore


def test_a_dead_container_is_not_put_back_into_traffic_after_a_restart_of_haproxy() -> None:
    """A host that boots must not look ready before its release runs."""
    world, _ = booted()
    host.die(world, BLUE)
    world.agent.kill()
    world.start_agent()
    host.restart_proxy(world, keep=False)
    assert world.run_for(2, lambda: world.docker.in_slot(BLUE) is not None)
    assert admin(world, BLUE) is not AdminState.READY
    assert world.run_for(5, lambda: serves(world, "app:a"))


@pytest.mark.parametrize("steps", range(6))
def test_a_switch_that_was_broken_off_anywhere_is_finished(steps: int) -> None:
    """Also between `ready new` and `drain old`; both answer meanwhile, nobody is refused."""
    world, _ = staged()
    failed = world.failed
    host.kill(world, steps)
    host.activate(world, "app:b")
    world.run_for(3)
    assert serves(world, "app:b")
    assert admin(world, BLUE) is AdminState.DRAIN
    assert world.failed == failed
    assert dict(world.monitor.breaches) == {}


def test_nothing_is_done_on_the_word_of_a_docker_that_is_away() -> None:
    """Traffic goes on; a good release that could not be looked at meanwhile does not fail for it."""
    world, taken = booted()
    host.stage(world, "app:s-slow")
    world.run_for(1.5)
    taken.clear()
    world.docker.set_away(is_away=True)
    world.run_for(30)
    assert kinds(taken) == []
    assert phase(world, GREEN) is SlotPhase.UNKNOWN
    world.docker.set_away(is_away=False)
    assert world.run_for(10, lambda: phase(world, GREEN) is SlotPhase.STAGED)


def test_nothing_is_done_while_haproxy_is_away() -> None:
    """And the plan says so."""
    world, taken = booted()
    world.proxy.down = True
    host.stage(world, "app:b")
    taken.clear()
    world.run_for(5)
    assert taken == []
    assert world.agent.plan is not None
    assert world.agent.plan.notes[0] == "HAProxy does not answer"


def test_old_workers_hold_the_slot_against_a_new_tenant() -> None:
    """Their states are frozen: a new container in that slot would be reached before its activation."""
    world, taken = switched()
    assert world.run_for(40, lambda: world.occupant(BLUE) is None)
    world.visitors[0].keeps_alive = True
    world.visitors[0].next_at = world.now
    world.step()
    host.reload(world)
    world.visitors[0].silent_until = world.now + 5
    host.stage(world, "app:c")
    taken.clear()
    world.run_for(4)
    assert not [action for action in taken if isinstance(action, Run)]
    assert "old HAProxy worker" in reason(world, BLUE)
    assert world.run_for(10, lambda: any(isinstance(action, Run) for action in taken))


def test_a_silent_master_socket_counts_as_old_workers() -> None:
    """S12: unknown is not empty."""
    world, taken = booted()
    world.proxy.master_answers = False
    host.stage(world, "app:b")
    world.run_for(5)
    assert not [action for action in taken if isinstance(action, Run)]
    assert "master socket" in reason(world, GREEN)


def test_at_drain_timeout_open_requests_are_cut_after_the_grace() -> None:
    """First maint, then stop_grace_period, then cut, then stop."""
    world, taken = switched()
    visitor = next(visitor for visitor in world.visitors if visitor.last and visitor.last.reference == "app:a")
    world.run_for(world.app.knobs.drain_timeout - 2)
    assert world.occupant(BLUE) is not None
    visitor.next_at = world.now
    world.step()
    for request in world.proxy.requests:
        request.ends = 1e9 if request.slot is BLUE else request.ends
    taken.clear()
    assert world.run_for(10, lambda: world.occupant(BLUE) is None)
    kept = [action for action in taken if isinstance(action, SetState | ShutdownSessions | Stop)]
    assert kinds(list(kept)) == ["SetState", "ShutdownSessions", "Stop"]
    assert "drain_timeout" in str(kept[-1])


def test_a_leaving_host_closes_its_gate_and_touches_nothing_else() -> None:
    """And opens it again when it stays."""
    world, taken = booted()
    world.leaving = True
    world.run_for(1)
    assert gate(world) is ReadinessGate.CLOSED
    assert kinds(taken) == ["SetReadinessGate"]
    world.leaving = False
    world.run_for(1)
    assert gate(world) is ReadinessGate.OPEN


def test_a_container_removed_by_hand_is_replaced_by_the_same_release() -> None:
    """Its empty slot leaves traffic only when it no longer seems to serve."""
    world, _ = booted()
    host.remove(world, BLUE)
    assert world.run_for(15, lambda: serves(world, "app:a"))
    assert host.settle(world)
    assert len(world.docker.containers_by_id) == 1


def test_an_agent_without_a_journal_adopts_what_it_finds() -> None:
    """What serves goes on, visitors of the old release keep it, no readiness changes."""
    world, taken = switched()
    world.run_for(1)
    taken.clear()
    host.wipe(world)
    world.run_for(1.5)
    assert not [action for action in taken if isinstance(action, SetState | Switch)]
    assert admin(world, BLUE) is AdminState.DRAIN
    assert dict(world.monitor.breaches) == {}


def test_silence_is_counted_from_the_last_that_was_seen_of_an_old_worker() -> None:
    """A new worker knows nothing of the requests the one before it still answered."""
    world, taken = switched()
    world.run_for(3)
    for visitor in world.visitors:
        visitor.silent_until = 1e9
    keeper = next(v for v in world.visitors if v.last and v.last.reference == "app:a")
    keeper.keeps_alive, keeper.silent_until, keeper.next_at = True, 0.0, world.now
    world.step()
    host.reload(world)
    keeper.silent_until = world.now + 6
    taken.clear()
    world.run_for(6.5)
    assert not world.proxy.old
    world.run_for(1)
    assert not [action for action in taken if isinstance(action, Stop | SetState)]


def test_a_host_of_unknown_desired_state_keeps_everything_as_it_is() -> None:
    """Consul forbids and nothing is known: what serves goes on, what drains stays, nothing new comes."""
    world, taken = switched()
    world.run_for(1)
    world.consul.away = "forbidden"
    host.wipe(world)
    taken.clear()
    world.run_for(40)
    assert not [action for action in taken if isinstance(action, SetState | Switch | Stop | Run | Pull)]
    assert world.agent.plan is not None
    assert "403" in " ".join(world.agent.plan.notes)


def test_a_converged_host_does_nothing() -> None:
    """Its plans hold no action, and it looks again only to be sure."""
    world, taken = staged()
    world.run_for(1)
    taken.clear()
    world.run_for(120)
    assert taken == []
    assert world.agent.plan is not None
    assert world.agent.plan.look_again_at - world.now <= 30

"""
The invariants of design.md, section 6, that concern one host, on a simulated host to which anything may happen.

Each run boots a host under visitors, lets operators, a coordinator and faults loose on it, and kills the agent
between any two steps of a plan. `test_planted_bugs.py` proves that each of these checks can fail.
"""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.sim.host import operator_model as host
from tests.sim.host.schedules import BY_HAND, SCHEDULES, WAIT, Schedule, run

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(0, 50)


def holds(invariant: str, schedule: Schedule, seed: int) -> None:
    """Run *schedule* and claim that nothing breached *invariant*."""
    world = run(schedule, seed)
    assert world.monitor.breaches.get(invariant, []) == []


@QUICK
@given(SCHEDULES, SEEDS)
def test_s1_the_last_ready_and_up_slot_is_never_taken_out(schedule: Schedule, seed: int) -> None:
    """No action takes it out, also not between two actions or two commands of one socket line."""
    holds("S1", schedule, seed)


@QUICK
@given(SCHEDULES, SEEDS)
def test_s2_no_new_visitor_gets_a_release_before_its_activation(schedule: Schedule, seed: int) -> None:
    """A staged release is reached by nobody who does not hold its pin."""
    holds("S2", schedule, seed)


@QUICK
@given(SCHEDULES, SEEDS)
def test_s6_a_lower_generation_and_seq_is_never_followed(schedule: Schedule, seed: int) -> None:
    """A restored snapshot is held, not followed, as long as the journal lives."""
    holds("S6", schedule, seed)


@QUICK
@given(SCHEDULES, SEEDS)
def test_s7_at_most_two_releases_run_each_alone_in_its_slot(schedule: Schedule, seed: int) -> None:
    """A third release waits for a free slot."""
    holds("S7", schedule, seed)


@QUICK
@given(SCHEDULES, SEEDS)
def test_s8_a_container_is_stopped_only_when_empty_or_past_its_deadline(schedule: Schedule, seed: int) -> None:
    """Its slot is in maint by then, nothing wants it, and a new occupant comes only when no old worker lives."""
    holds("S8", schedule, seed)


@QUICK
@given(SCHEDULES, SEEDS)
def test_s9_a_release_that_was_never_activated_was_never_visited(schedule: Schedule, seed: int) -> None:
    """Staged and withdrawn, failed or aborted: it changed what no visitor got."""
    holds("S9", schedule, seed)


@QUICK
@given(SCHEDULES, SEEDS)
def test_s12_unknown_is_never_healthy_empty_or_absent(schedule: Schedule, seed: int) -> None:
    """Nothing is done on the word of a system that is away, nothing serves that was not seen healthy."""
    holds("S12", schedule, seed)


@QUICK
@given(SCHEDULES, SEEDS)
def test_s14_no_visitor_is_moved_in_mid_visit(schedule: Schedule, seed: int) -> None:
    """But by a rollback, at drain_timeout, or after visit_idle of silence; or by a fault that took the container."""
    holds("S14", schedule, seed)


@QUICK
@given(SCHEDULES, SEEDS)
def test_l2_the_host_comes_to_rest_as_desired_when_faults_end(schedule: Schedule, seed: int) -> None:
    """Within a bound made of the knobs, and then plans hold no action."""
    world = run(schedule, seed)
    assert host.settle(world), f"still busy: {world.agent.plan}"
    assert world.agent.plan is not None
    assert world.agent.plan.actions == ()
    assert host.is_converged(world) == ""


@QUICK
@given(SCHEDULES, SEEDS)
def test_l5_nothing_is_orphaned(schedule: Schedule, seed: int) -> None:
    """At rest each container has a slot of its own, and a pin leads only to a slot that holds one."""
    world = run(schedule, seed)
    host.settle(world)
    slots = [container.slot for container in world.docker.containers_by_id.values()]
    assert len(slots) == len(set(slots)), f"containers beside each other: {slots}"
    assert set(world.proxy.process.pins) <= set(slots), f"pins {dict(world.proxy.process.pins)} for slots {slots}"


@QUICK
@given(st.lists(st.tuples(BY_HAND, WAIT), min_size=2, max_size=10), SEEDS)
@example([(("stage", "app:b"), 2.5), (("stage", "app:a"), 0.1), (("activate", "app:b"), 0.1)], 0)
def test_without_faults_no_request_fails_once_the_host_serves(schedule: Schedule, seed: int) -> None:
    """Operators alone, whatever they do, cost nobody a request."""
    world = run([], seed)
    failed_at_boot = world.failed
    again = run(schedule, seed)
    assert again.failed == failed_at_boot
    assert not any(key.startswith(host.GOOD) for key in again.agent.memory.failures)
    assert {name: what for name, what in again.monitor.breaches.items() if what} == {}


@pytest.mark.full
@pytest.mark.timeout(900)
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SCHEDULES, SEEDS)
def test_all_invariants_hold_over_many_schedules(schedule: Schedule, seed: int) -> None:
    """All of the above at once, at length."""
    world = run(schedule, seed)
    assert {name: what for name, what in world.monitor.breaches.items() if what} == {}
    assert host.settle(world)
    assert host.is_converged(world) == ""

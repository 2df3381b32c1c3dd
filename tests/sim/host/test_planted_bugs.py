"""For each invariant a planted bug that breaches it: proof that the checks of `test_invariants.py` can fail."""

from dataclasses import replace

import pytest

from agent.core.host.actions import Action, SetPins, Switch
from agent.core.host.memory import LastApplied
from agent.core.host.observed import Observed, Unavailable
from agent.core.host.plan_builder import DecisionInput
from agent.core.host.validate import BootState, Validated, validate
from agent.core.model.keys import Outcome
from agent.core.model.names import NodeName
from agent.core.model.states import AdminState
from tests.sim.host import operator_model as host
from tests.sim.host.agent import Bug
from tests.sim.host.bugs import (
    drain_before_ready,
    each,
    good_at_once,
    never_stop,
    run_into_a_taken_slot,
    seeing,
    stop_what_drains,
    switch_instead_of_staging,
)
from tests.sim.host.schedules import Schedule, run
from tests.sim.host.world import World

SWITCH: Schedule = [(("stage_and_activate", "app:b"), 30.0)]


def switch_for_good_instead_of_staging(action: Action, decision_input: DecisionInput) -> tuple[Action, ...]:
    """As above, and not take it back a tick later, before any visitor comes."""
    if isinstance(action, Switch) and decision_input.now > 5.5:
        return ()
    return switch_instead_of_staging(action, decision_input)


def maint_at_once(action: Action, decision_input: DecisionInput) -> tuple[Action, ...]:
    return (replace(action, old_to=AdminState.MAINT),) if isinstance(action, Switch) else (action,)


def forget_pins_at_the_switch(action: Action, decision_input: DecisionInput) -> tuple[Action, ...]:
    if isinstance(action, Switch):
        pin = decision_input.observed.proxy.pins[action.new]  # type: ignore[union-attr]
        return action, SetPins({action.new: pin})
    return (action,)


def never_switch(action: Action, decision_input: DecisionInput) -> tuple[Action, ...]:
    return () if isinstance(action, Switch) and decision_input.now > 6 else (action,)


def empty_when_away(observed: Observed) -> Observed:
    return replace(observed, containers=()) if isinstance(observed.containers, Unavailable) else observed


def no_old_workers(observed: Observed) -> Observed:
    if isinstance(observed.proxy, Unavailable):
        return observed
    return replace(observed, proxy=replace(observed.proxy, old_workers=0))


def follow_anything(outcome: Outcome, last_applied: LastApplied, node: NodeName, boot: BootState) -> Validated:
    return validate(outcome, LastApplied(), node, boot)


AWAY: Schedule = [(("docker", True), 3.0)]
WENT_BACK: Schedule = [
    (("deploy", "app:b"), 2.0),
    (("snapshot", None), 8.0),
    (("abort", None), 8.0),
    (("restore", None), 3.0),
]
OLD_WORKER: Schedule = [(("reload", None), 0.1), (("stage", "app:b"), 6.0)]
BAD: Schedule = [(("stage", "app:b"), 6.0), (("withdraw", None), 3.0)]


@pytest.mark.parametrize(
    ("invariant", "schedule", "bug"),
    [
        ("S1", [(("activate", "app:b"), 8.0)], each(drain_before_ready)),
        ("S2", [(("stage", "app:b"), 6.0)], each(switch_instead_of_staging)),
        ("S6", WENT_BACK, Bug(validate=follow_anything)),
        ("S7", [(("stage", "app:b"), 6.0)], Bug(plan=run_into_a_taken_slot)),
        ("S8", SWITCH, Bug(plan=stop_what_drains)),
        ("S8", OLD_WORKER, seeing(no_old_workers)),
        ("S9", BAD, each(switch_for_good_instead_of_staging)),
        ("S12", [(("activate", "app:n-never"), 4.0)], seeing(good_at_once)),
        ("S12", AWAY, seeing(empty_when_away)),
        ("S14", SWITCH, each(maint_at_once)),
        ("S14", SWITCH, each(forget_pins_at_the_switch)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_planted_bug_is_found(invariant: str, schedule: Schedule, bug: Bug) -> None:
    """With the bug the check finds a breach, without it none."""
    found = [run(schedule, seed, bug).monitor.breaches.get(invariant, []) for seed in range(6)]
    assert any(found)
    assert not any(run(schedule, seed).monitor.breaches.get(invariant, []) for seed in range(6))


@pytest.mark.parametrize("bug", [each(never_stop), each(never_switch)], ids=["never stops", "never switches"])
def test_an_agent_that_does_not_converge_is_found(bug: Bug) -> None:
    """L2 and L5: the host is not at rest as desired."""
    world = run(SWITCH, 0, bug)
    assert not host.settle(world) or host.is_converged(world)


def test_the_simulated_host_serves_visitors_at_all() -> None:
    """The checks look at real traffic: visitors got both releases, and the old one first."""
    world: World = run(SWITCH)
    assert {visitor.last.reference for visitor in world.visitors if visitor.last} == {"app:b"}
    assert sum(visitor.asked for visitor in world.visitors) > 100
    assert world.monitor.visited

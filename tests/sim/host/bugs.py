"""Bugs to plant into the agent of a simulated host."""

from collections.abc import Callable
from dataclasses import replace

from agent.core.host.actions import Action, Run, SetState, Stop, Switch
from agent.core.host.observed import Observed, Unavailable
from agent.core.host.plan import Plan
from agent.core.host.plan_builder import DecisionInput
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState
from tests.sim.host.agent import Bug


def each(change: Callable[[Action, DecisionInput], tuple[Action, ...]]) -> Bug:
    """Return a bug that replaces each action of each plan."""

    def planted(plan: Plan, decision_input: DecisionInput) -> Plan:
        return replace(plan, actions=tuple(new for old in plan.actions for new in change(old, decision_input)))

    return Bug(plan=planted)


def seeing(change: Callable[[Observed], Observed]) -> Bug:
    """Return a bug in what is seen."""
    return Bug(seen=change)


def drain_before_ready(action: Action, decision_input: DecisionInput) -> tuple[Action, ...]:
    if isinstance(action, Switch):
        return SetState(action.old, action.old_to, "planted"), action
    return (action,)


def switch_instead_of_staging(action: Action, decision_input: DecisionInput) -> tuple[Action, ...]:
    if isinstance(action, SetState) and action.state is AdminState.DRAIN:
        return (Switch(action.slot, action.slot.other, AdminState.DRAIN),)
    return (action,)


def stop_what_drains(plan: Plan, decision_input: DecisionInput) -> Plan:
    switch = next((action for action in plan.actions if isinstance(action, Switch)), None)
    containers = decision_input.observed.containers
    if switch is None or isinstance(containers, Unavailable):
        return plan
    stops = tuple(Stop(c.slot, c.id, 0.0, "planted") for c in containers if c.slot is switch.old)
    return replace(plan, actions=plan.actions + stops)


def run_into_a_taken_slot(plan: Plan, decision_input: DecisionInput) -> Plan:
    runs = [action for action in plan.actions if isinstance(action, Run)]
    if decision_input.observed.jobs:
        return replace(plan, actions=tuple(action for action in plan.actions if action not in runs))
    actions = tuple(replace(action, slot=SlotName.BLUE) if action in runs else action for action in plan.actions)
    return replace(plan, actions=actions)


def never_stop(action: Action, decision_input: DecisionInput) -> tuple[Action, ...]:
    return () if isinstance(action, Stop) else (action,)


def good_at_once(observed: Observed) -> Observed:
    """Take `DRAIN 1/2` for known good, and skip our own probe."""
    if isinstance(observed.proxy, Unavailable) or isinstance(observed.containers, Unavailable):
        return observed
    servers = {
        slot: replace(server, status="DRAIN", check="L7OK") if server.admin is AdminState.DRAIN else server
        for slot, server in observed.proxy.servers.items()
    }
    health = {key: replace(value, healthy_for_s=99.0) for key, value in observed.health.items()}
    return replace(observed, proxy=replace(observed.proxy, servers=servers), health=health)

"""
Assign a goal to each tenant, from the desired state and the memory.

First match wins:

====================================================  =========
tenant                                                goal
====================================================  =========
both slots have its release, and the other one is     LEAVE
kept: it serves, or ran first
its attempt failed, or it began to leave unvisited    LEAVE
is the release to serve                               SERVE
is the release to hold beside it                      HOLD
nothing is to be changed (``AsItIs``), or it serves
while nothing is recorded                             STAY
never reached a visitor                               LEAVE
was taken back, and is newer than what serves         LEAVE
the record says ``retiring``                          LEAVE
visitors may hold it                                  KEEP
====================================================  =========

A goal never takes a slot that serves out of traffic: only the switch to another one does.
"""

from agent.core.host.desired import Desired, HoldingPage, Want
from agent.core.host.observed import Container
from agent.core.host.rule_context import Goal, RuleContext
from agent.core.model.names import SlotName


def goals_of(context: RuleContext) -> dict[SlotName, Goal]:
    """Return the goal of each tenant."""
    goals = {slot: _goal(context, slot, tenant, context.serve) for slot, tenant in context.tenants.items()}
    if len(goals) == len(SlotName) and len(set(goals.values())) == 1 and goals[SlotName.BLUE] in _ONLY_ONE:
        goals[_spare(context)] = Goal.LEAVE
    return goals


_ONLY_ONE = (Goal.SERVE, Goal.HOLD)


def _spare(context: RuleContext) -> SlotName:
    """Return the slot to give up where both hold the same release: the one that does less, else the newer one."""
    return min(
        SlotName,
        key=lambda slot: (
            context.server(slot).is_serving,
            context.server(slot).is_ready,
            context.slot(slot).served,
            context.tenants[slot].is_running,
            -context.tenants[slot].tenancy,
        ),
    )


def _goal(context: RuleContext, slot: SlotName, tenant: Container, serve: Want | None) -> Goal:
    desired, known = context.at.desired, context.slot(slot)
    failing = not known.served and known.leave_since is not None
    if failing:
        return Goal.LEAVE
    if serve is not None and serve.is_met_by(tenant):
        return Goal.SERVE
    if desired.hold is not None and desired.hold.is_met_by(tenant) and not _must_make_room(context, serve):
        return Goal.HOLD
    if serve is None and not isinstance(desired.serve, HoldingPage):
        return Goal.STAY
    if serve is None and known.served:
        return Goal.STAY
    if not known.served or desired.retire_now or _is_taken_back(context, tenant, desired, serve):
        return Goal.LEAVE
    return Goal.KEEP


def _must_make_room(context: RuleContext, serve: Want | None) -> bool:
    """Whether the release to serve needs the slot of a held one, once its visitors have finished."""
    if serve is None or len(context.tenants) < len(SlotName):
        return False
    return not any(serve.is_met_by(tenant) for tenant in context.tenants.values())


def _is_taken_back(context: RuleContext, tenant: Container, desired: Desired, serve: Want | None) -> bool:
    """
    Tell a release that was taken back from the one before it, which a stage key may still name.

    After ``active = stage = a`` and then ``active = b``, the older ``stage`` key names a, which nobody took
    back; its container is older than that of b. After a switch back from b to a it is the newer one.
    """
    back = desired.taken_back
    if back is None or not back.is_met_by(tenant):
        return False
    if not desired.back_if_newer or serve is None:
        return True
    serving = next((other for other in context.tenants.values() if serve.is_met_by(other)), None)
    return serving is not None and serving.tenancy < tenant.tenancy

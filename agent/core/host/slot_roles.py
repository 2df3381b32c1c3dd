"""
Assign a goal to each occupant, from the desired state and the memory.

First match wins:

====================================================  =========
occupant                                                role
====================================================  =========
both slots have its release, and the other one is     LEAVE
kept: it serves, or ran first
its attempt failed, or it began to leave unvisited    LEAVE
is the release to serve                               SERVE
is the release to hold beside it                      HOLD
nothing is to be changed (``Unchanged``), or it serves
while nothing is recorded                             STAY
never reached a visitor                               LEAVE
was taken back, and is newer than what serves         LEAVE
the record says ``retiring``                          LEAVE
visitors may hold it                                  KEEP
====================================================  =========

A role never takes a slot that serves out of traffic: only the switch to another one does.
"""

from agent.core.host.desired import Desired, DesiredRelease, HoldingPage
from agent.core.host.observed import Container
from agent.core.host.rules.context import RuleContext, SlotRole
from agent.core.model.names import SlotName


def slot_roles(context: RuleContext) -> dict[SlotName, SlotRole]:
    """Return the role of each occupant."""
    roles = {slot: _slot_role(context, slot, occupant, context.serve) for slot, occupant in context.occupants.items()}
    if len(roles) == len(SlotName) and len(set(roles.values())) == 1 and roles[SlotName.BLUE] in _ONLY_ONE:
        roles[_spare(context)] = SlotRole.LEAVE
    return roles


_ONLY_ONE = (SlotRole.SERVE, SlotRole.HOLD)


def _spare(context: RuleContext) -> SlotName:
    """Return the slot to give up where both hold the same release: the one that does less, else the newer one."""
    return min(
        SlotName,
        key=lambda slot: (
            context.server(slot).is_serving,
            context.server(slot).is_ready,
            context.slot(slot).served,
            context.occupants[slot].is_running,
            -context.occupants[slot].occupancy,
        ),
    )


def _slot_role(context: RuleContext, slot: SlotName, occupant: Container, serve: DesiredRelease | None) -> SlotRole:
    desired, known = context.at.desired, context.slot(slot)
    failing = not known.served and known.leave_since is not None
    if failing:
        return SlotRole.LEAVE
    if serve is not None and serve.is_met_by(occupant):
        return SlotRole.SERVE
    if desired.hold is not None and desired.hold.is_met_by(occupant) and not _must_make_room(context, serve):
        return SlotRole.HOLD
    if serve is None and not isinstance(desired.serve, HoldingPage):
        return SlotRole.STAY
    if serve is None and known.served:
        return SlotRole.STAY
    if not known.served or desired.retire_now or _is_taken_back(context, occupant, desired, serve):
        return SlotRole.LEAVE
    return SlotRole.KEEP


def _must_make_room(context: RuleContext, serve: DesiredRelease | None) -> bool:
    """Whether the release to serve needs the slot of a held one, once its visitors have finished."""
    if serve is None or len(context.occupants) < len(SlotName):
        return False
    return not any(serve.is_met_by(occupant) for occupant in context.occupants.values())


def _is_taken_back(context: RuleContext, occupant: Container, desired: Desired, serve: DesiredRelease | None) -> bool:
    """
    Tell a release that was taken back from the one before it, which a stage key may still name.

    After ``active = stage = a`` and then ``active = b``, the older ``stage`` key names a, which nobody took
    back; its container is older than that of b. After a switch back from b to a it is the newer one.
    """
    back = desired.taken_back
    if back is None or not back.is_met_by(occupant):
        return False
    if not desired.back_if_newer or serve is None:
        return True
    serving = next((other for other in context.occupants.values() if serve.is_met_by(other)), None)
    return serving is not None and serving.occupancy < occupant.occupancy

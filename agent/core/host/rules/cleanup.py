"""What a host puts in order whatever it serves: pins, empty slots, and containers that a crash left behind."""

from agent.core.host.actions import Run, SetState, Start, Stop
from agent.core.host.observed import Unavailable
from agent.core.host.plan_builder import BUSY_POLL_S, NOTHING, Fragment
from agent.core.host.rules.context import RuleContext, SlotRole
from agent.core.host.update_memory import desired_releases
from agent.core.model.names import Pin, SlotName
from agent.core.model.states import AdminState


def keep_pins(context: RuleContext) -> Fragment:
    """Keep the pin of every release that a visitor's cookie may name; the pin of any other slot goes."""
    releases, held = desired_releases(context.at.desired), context.proxy.pins
    pins: dict[SlotName, Pin] = {}
    for slot, role in context.roles.items():
        known, occupant = context.slot(slot), context.occupants[slot]
        ready = context.server(slot).is_ready
        leaving = known.leave_since is not None and not ready
        if ready or (slot in held and role is not SlotRole.LEAVE and not leaving):
            release = next((release for release in releases if release.is_met_by(occupant)), None)
            pins[slot] = release.pin_for(occupant) if release else held.get(slot, occupant.pin)
    return Fragment(pins=pins) if pins else NOTHING


def tidy_empty_slots(context: RuleContext) -> Fragment:
    """Put empty slots to maint, save one that still seems to serve alone (its container was just removed by hand)."""
    states: list[SetState] = []
    for slot in SlotName:
        server = context.server(slot)
        alone = server.is_serving and not context.server(slot.other).is_serving
        if slot not in context.occupants and server.admin is not AdminState.MAINT and not alone:
            states.append(SetState(slot, AdminState.MAINT, "no container"))
    return Fragment(states=tuple(states), look_again_at=context.now + BUSY_POLL_S) if states else NOTHING


def remove_doubles(context: RuleContext) -> Fragment:
    """Remove what a crash left beside a slot's occupant: it never had the slot's address."""
    listed = context.at.observed.containers
    assert not isinstance(listed, Unavailable)
    if len(listed) == len(context.occupants):
        return NOTHING
    chosen = {occupant.id for occupant in context.occupants.values()}
    busy = {job.slot for job in context.planned.jobs if isinstance(job, Run | Start | Stop)}
    stops: dict[SlotName, Stop] = {}
    for container in listed:
        slot = container.slot
        if container.id not in chosen and slot not in busy and context.job(slot) is None:
            stops.setdefault(slot, Stop(slot, container.id, 0.0, "left over beside the slot's occupant"))
    return Fragment(jobs=tuple(stops.values()))

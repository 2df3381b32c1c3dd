"""Put HAProxy's slots back after a restart or reload: the serving one first, then the draining, then the others."""

from agent.core.host.actions import SetState, Switch
from agent.core.host.observed import Unavailable
from agent.core.host.plan import SlotView
from agent.core.host.plan_builder import BUSY_POLL_S, NOTHING, Fragment
from agent.core.host.rules.context import RuleContext
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, SlotPhase


def restore_slot_states(context: RuleContext) -> Fragment:
    """
    Put back the states that the worker before this one had.

    Done at once, without waiting for checks: the containers were good a moment ago.
    Nothing is put back on the first look ever, and in slots whose container is gone or, to serve, is dead. If a
    slot serves already, HAProxy has read that from its state file, which is newer than the journal: it is left alone.

    Returns: the states to set and no other action; without any, this worker is remembered as one that has them.
    """
    worker = context.proxy.worker
    if context.memory.worker in (None, worker):
        return NOTHING
    states = _missing_states(context)
    if not states:
        return Fragment(memory={"worker": worker, "gate": context.proxy.gate})
    view = SlotView(SlotPhase.UNKNOWN, "HAProxy restarted: its states are put back")
    return Fragment(
        states=states,
        pins=context.proxy.pins,
        views=dict.fromkeys(SlotName, view),
        look_again_at=context.now + BUSY_POLL_S,
    )


def _missing_states(context: RuleContext) -> tuple[SetState | Switch, ...]:
    wanted = {slot: admin for slot in SlotName if (admin := context.slot(slot).admin) and _may_exist(context, slot)}
    live = next((slot for slot, admin in wanted.items() if admin is AdminState.READY and _may_run(context, slot)), None)
    loaded = any(context.server(slot).is_serving for slot in SlotName)
    if live is not None and not loaded and not context.server(live).is_ready:
        return (Switch(live, live.other, wanted.get(live.other, AdminState.MAINT), restore=True),)
    return tuple(
        SetState(slot, admin, "as before HAProxy's restart")
        for slot, admin in wanted.items()
        if admin is AdminState.DRAIN and context.server(slot).admin is AdminState.MAINT
    )


def _may_run(context: RuleContext, slot: SlotName) -> bool:
    """Whether a container may answer in *slot*: Docker says so, or says nothing."""
    return slot not in context.occupants or context.occupants[slot].is_running


def _may_exist(context: RuleContext, slot: SlotName) -> bool:
    return slot in context.occupants or isinstance(context.at.observed.containers, Unavailable)

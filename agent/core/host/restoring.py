"""Put HAProxy's slots back after a restart or reload: the serving one first, then the draining, then the others."""

from agent.core.host.actions import SetState, Switch
from agent.core.host.observed import Unavailable
from agent.core.host.plan_builder import BUSY_POLL_S, Draft, is_ready
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, SlotPhase


def is_restored(draft: Draft) -> bool:
    """
    Return whether this worker holds the states the one before it had; if not, plan what is missing.

    Done at once, without waiting for checks: the containers were good a moment ago (facts/haproxy, section 4).
    Known to need nothing on the first look ever, and for slots whose container is gone or, to serve, is dead. A slot
    that serves already was in the state file, which is written before the journal: then no other is put in its place.
    """
    memory = draft.memory
    if memory.worker in (None, draft.proxy.worker):
        return True
    wanted = {slot: admin for slot in SlotName if (admin := memory.slot(slot).admin) and _may_exist(draft, slot)}
    live = next((slot for slot, admin in wanted.items() if admin is AdminState.READY and _may_run(draft, slot)), None)
    loaded = any(draft.server(slot).is_serving for slot in SlotName)
    if live is not None and not loaded and not is_ready(draft.server(live)):
        draft.states.append(Switch(live, live.other, wanted.get(live.other, AdminState.MAINT), restore=True))
    else:
        for slot, admin in wanted.items():
            if admin is AdminState.DRAIN and draft.server(slot).admin is AdminState.MAINT:
                draft.states.append(SetState(slot, admin, "as before HAProxy's restart"))
    if draft.states:
        draft.pins = dict(draft.proxy.pins)
        for slot in SlotName:
            draft.show(slot, SlotPhase.UNKNOWN, "HAProxy restarted: its states are put back")
        draft.look(draft.now + BUSY_POLL_S)
        return False
    draft.memory = memory.but(worker=draft.proxy.worker, gate=draft.proxy.gate)
    return True


def _may_run(draft: Draft, slot: SlotName) -> bool:
    """Whether a container may answer in *slot*: Docker says so, or says nothing."""
    return slot not in draft.tenants or draft.tenants[slot].is_running


def _may_exist(draft: Draft, slot: SlotName) -> bool:
    return slot in draft.tenants or isinstance(draft.at.observed.containers, Unavailable)

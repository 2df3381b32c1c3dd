"""Put HAProxy's slots back after a restart or reload: the serving one first, then the draining, then the others."""

from agent.core.actions import SetState, Switch
from agent.core.draft import BUSY_POLL_S, Draft
from agent.core.names import SlotName
from agent.core.observed import AdminState
from agent.core.plan import SlotPhase


def is_restored(draft: Draft) -> bool:
    """
    Return whether this worker holds the states the one before it had; if not, plan what is missing.

    Done at once, without waiting for checks: the containers were good a moment ago (facts/haproxy, section 4).
    Known to need nothing on the first look ever, and for slots whose container is gone.
    """
    memory = draft.memory
    if memory.worker in (None, draft.proxy.worker):
        return True
    wanted = {slot: admin for slot in SlotName if (admin := memory.slot(slot).admin) is not None}
    live = next((slot for slot, admin in wanted.items() if admin is AdminState.READY), None)
    if live is not None and draft.server(live).admin is not AdminState.READY:
        draft.states.append(Switch(live, live.other, wanted.get(live.other, AdminState.MAINT), restore=True))
    else:
        for slot, admin in wanted.items():
            if slot is not live and draft.server(slot).admin is not admin:
                draft.states.append(SetState(slot, admin, "as before HAProxy's restart"))
    if draft.states:
        draft.pins = dict(draft.proxy.pins)
        for slot in SlotName:
            draft.show(slot, SlotPhase.UNKNOWN, "HAProxy restarted: its states are put back")
        draft.look(draft.now + BUSY_POLL_S)
        return False
    draft.memory = memory.but(worker=draft.proxy.worker, gate=draft.proxy.gate)
    return True

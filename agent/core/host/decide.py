"""
Decide what is safe to do now. Pure: the same situation gives the same plan.

One tick, in this order; what is not due yet is only shown, with its reason:

1. Docker or HAProxy away: change nothing there, say so.
2. HAProxy restarted: put the slots back as they were, the serving one first.
3. The release to serve: get it into a free slot, check it, switch to it when it is staged; restart it if it died.
4. The release to hold beside it: get it staged; no new visitor reaches it.
5. Everybody else: visitors finish (KEEP), or go back at once and the container when empty (LEAVE).
6. The gate, the pins, the saved states, old images.

Order is the invariant (S1): a slot leaves ``ready`` only in the one line that has made another one ready before.
"""

from agent.core.host.actions import SetGate, SetState, Stop, Switch
from agent.core.host.desired import AsItIs, HoldingPage
from agent.core.host.observed import Container, Unavailable
from agent.core.host.plan import Plan, SlotView
from agent.core.host.plan_builder import BUSY_POLL_S, Draft, Situation, is_ready
from agent.core.host.pruning import prune
from agent.core.host.readiness import note_ready, still_joins
from agent.core.host.restoring import is_restored
from agent.core.host.retiring import DRAIN_POLL_S, keep, leave, revive, watch_silence
from agent.core.host.slot_roles import Goal, goals_of
from agent.core.host.staging import cancel_unwanted_pulls, place, stage
from agent.core.host.update_memory import recall, tenants_of, wants_of, with_clocks_held
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, Gate, SlotPhase


def decide(situation: Situation) -> Plan:
    """Return what is safe now, when to look again, the next memory and what to show."""
    observed, now = situation.observed, situation.now
    memory = recall(situation.memory, observed, situation.desired, now)
    if isinstance(observed.proxy, Unavailable) or isinstance(observed.containers, Unavailable):
        memory = with_clocks_held(memory, now)
    if isinstance(observed.proxy, Unavailable):
        views = {slot: SlotView(SlotPhase.UNKNOWN, observed.proxy.reason) for slot in SlotName}
        return Plan((), now + 0.5, memory, views, notes=(observed.proxy.reason, *situation.desired.notes))
    listed = () if isinstance(observed.containers, Unavailable) else observed.containers
    draft = Draft(situation, observed.proxy, tenants_of(listed), memory)
    draft.notes.extend(situation.desired.notes)
    if not is_restored(draft):
        return draft.finish()
    if isinstance(observed.containers, Unavailable):
        return _without_docker(draft, observed.containers.reason)
    note_ready(draft)
    _decide_slots(draft)
    _remove_doubles(draft, observed.containers)
    return draft.finish()


def _without_docker(draft: Draft, reason: str) -> Plan:
    draft.notes.append(reason)
    draft.pins = dict(draft.proxy.pins)
    for slot in SlotName:
        draft.show(slot, SlotPhase.UNKNOWN, reason)
    draft.look(draft.now + 1)
    return draft.finish()


def _decide_slots(draft: Draft) -> None:
    goals = goals_of(draft)
    _keep_pins(draft, goals)
    _tidy_empty_slots(draft)
    for slot in _by_readiness(draft, ready=False):
        _others(draft, slot, draft.tenants[slot], goals[slot])
    _serve(draft, goals)
    _hold(draft, goals)
    for slot in _by_readiness(draft, ready=True):
        _others(draft, slot, draft.tenants[slot], goals[slot])
    for slot in SlotName:
        if slot not in draft.views:
            draft.show(slot, SlotPhase.EMPTY)
    _set_gate(draft)
    cancel_unwanted_pulls(draft, wants_of(draft.at.desired))
    prune(draft)
    if isinstance(draft.at.desired.serve, AsItIs):
        draft.notes.append(draft.at.desired.serve.reason)


def _by_readiness(draft: Draft, *, ready: bool) -> tuple[SlotName, ...]:
    return tuple(slot for slot in draft.tenants if is_ready(draft.server(slot)) is ready)


def _serve(draft: Draft, goals: dict[SlotName, Goal]) -> None:
    want = draft.serve
    if want is None:
        return
    slot = next((slot for slot, goal in goals.items() if goal is Goal.SERVE), None)
    if slot is None:
        place(draft, want)
        return
    tenant = draft.tenants[slot]
    if is_ready(draft.server(slot)):
        _go_on_serving(draft, slot, tenant)
        _finish_switch(draft, slot, goals)
    elif stage(draft, slot, tenant, want):
        if still_joins(draft) is not None and draft.proxy.gate is not Gate.CLOSED:
            draft.look(draft.now)  # the gate goes first: the switch may make the host ready
        else:
            _switch(draft, slot, goals)


def _switch(draft: Draft, slot: SlotName, goals: dict[SlotName, Goal]) -> None:
    other = slot.other
    was_ready = is_ready(draft.server(other))
    old_to = _state_after(goals.get(other)) if was_ready else draft.admin_after(other)
    draft.states.append(Switch(slot, other, old_to))
    draft.remember(slot, served=True, admin=AdminState.READY, drain_since=None)
    draft.show(slot, SlotPhase.SERVING)
    if was_ready:
        draft.show(other, SlotPhase.DRAINING, f"slot {slot} gets the new visitors")
    draft.look(draft.now)


def _finish_switch(draft: Draft, slot: SlotName, goals: dict[SlotName, Goal]) -> None:
    """Take the other slot out where a switch was broken off between its two halves."""
    other = slot.other
    if not is_ready(draft.server(other)) or other not in draft.tenants:
        return
    if draft.server(slot).is_serving:
        draft.states.append(SetState(other, _state_after(goals.get(other)), f"slot {slot} serves"))
        draft.look(draft.now)
    else:
        draft.show(other, SlotPhase.SERVING, f"until HAProxy calls slot {slot} up")
        draft.look(draft.now + BUSY_POLL_S)


def _state_after(goal: Goal | None) -> AdminState:
    """Return where a slot goes that has served: visitors finish, unless its release is taken back."""
    return AdminState.DRAIN if goal in (Goal.KEEP, Goal.HOLD) else AdminState.MAINT


def _go_on_serving(draft: Draft, slot: SlotName, tenant: Container) -> None:
    if not tenant.is_running:
        revive(draft, slot, tenant)
    elif draft.server(slot).is_serving:
        draft.show(slot, SlotPhase.SERVING)
    else:
        server = draft.server(slot)
        draft.show(slot, SlotPhase.SERVING, f"HAProxy says {server.status}, {server.check}: {server.check_detail}")
        draft.look(draft.now + 1)


def _hold(draft: Draft, goals: dict[SlotName, Goal]) -> None:
    want = draft.at.desired.hold
    if want is None:
        return
    slot = next((slot for slot, goal in goals.items() if goal is Goal.HOLD), None)
    if slot is None:
        if draft.serve is None or Goal.SERVE in goals.values():
            place(draft, want)
        return
    tenant = draft.tenants[slot]
    if is_ready(draft.server(slot)):
        _go_on_serving(draft, slot, tenant)
    elif stage(draft, slot, tenant, want):
        if draft.slot(slot).served:
            draft.show(slot, SlotPhase.DRAINING, "kept warm: the way back")
        if draft.at.desired.runs_both:
            watch_silence(draft, slot)
            draft.look(draft.now + DRAIN_POLL_S)  # the fleet goes by its silence, and HAProxy sends no event


def _others(draft: Draft, slot: SlotName, tenant: Container, goal: Goal) -> None:
    known, knobs = draft.slot(slot), draft.at.app.knobs
    ready = is_ready(draft.server(slot))
    match goal:
        case Goal.SERVE | Goal.HOLD:
            return
        case Goal.STAY | Goal.KEEP | Goal.LEAVE if ready:
            if slot not in draft.views:
                _go_on_serving(draft, slot, tenant)
        case Goal.STAY:
            phase = SlotPhase.DRAINING if known.served else SlotPhase.WAITING
            draft.show(slot, phase, "kept as it is")
        case Goal.KEEP:
            keep(draft, slot, tenant)
        case Goal.LEAVE:
            _let_go(draft, slot, tenant, patience_s=_patience(draft, knobs.drain_timeout, knobs.stop_grace_period))


def _patience(draft: Draft, taken_back_s: float, retired_s: float) -> float:
    return retired_s if draft.at.desired.retire_now else taken_back_s


def _let_go(draft: Draft, slot: SlotName, tenant: Container, *, patience_s: float) -> None:
    known, back = draft.slot(slot), draft.at.desired.taken_back
    if known.leave_reason:
        reason = known.leave_reason
    elif back is not None and back.is_met_by(tenant):
        reason = "taken back"
    elif draft.at.desired.retire_now:
        reason = "the fleet has left it"
    else:
        reason = "wanted by nobody"
    failure = draft.memory.failures.get(known.failed_key or "")
    leave(draft, slot, tenant, reason, patience_s if known.served else 0.0)
    if failure is not None:
        draft.show(slot, SlotPhase.FAILED, f"{tenant.reference}: {failure.reason}", failure.lines)


def _keep_pins(draft: Draft, goals: dict[SlotName, Goal]) -> None:
    """Keep the pins of all that visitors may hold; a pin of a slot without such a tenant goes."""
    for slot, goal in goals.items():
        known, tenant = draft.slot(slot), draft.tenants[slot]
        ready = is_ready(draft.server(slot))
        leaving = known.leave_since is not None and not ready
        if ready or (slot in draft.proxy.pins and goal is not Goal.LEAVE and not leaving):
            want = next((want for want in wants_of(draft.at.desired) if want.is_met_by(tenant)), None)
            draft.pins[slot] = want.pin_for(tenant) if want else draft.proxy.pins.get(slot, tenant.pin)


def _tidy_empty_slots(draft: Draft) -> None:
    """Put empty slots to maint, save one that still seems to serve alone (its container was just removed by hand)."""
    for slot in SlotName:
        server = draft.server(slot)
        alone = server.is_serving and not draft.server(slot.other).is_serving
        if slot not in draft.tenants and server.admin is not AdminState.MAINT and not alone:
            draft.states.append(SetState(slot, AdminState.MAINT, "no container"))
            draft.look(draft.now + BUSY_POLL_S)


def _set_gate(draft: Draft) -> None:
    lack = still_joins(draft)
    if lack is not None:
        draft.notes.append(f"not ready before it runs both releases: {lack}")
        draft.look(draft.now + 1)
    serves = any(is_ready(draft.server(slot)) for slot in SlotName)
    nothing_recorded = isinstance(draft.at.desired.serve, HoldingPage) and not serves
    holding = nothing_recorded or (draft.memory.holding and not serves)
    draft.memory = draft.memory.but(holding=holding)
    gate = Gate.CLOSED if draft.memory.leaving or lack is not None else Gate.HOLDING if holding else Gate.OPEN
    if gate is not draft.proxy.gate or not draft.proxy.gate_saved:
        draft.gate = SetGate(gate)
    if draft.memory.leaving:
        draft.look(draft.now + DRAIN_POLL_S)  # a shutdown waits until nothing is open, and HAProxy sends no event


def _remove_doubles(draft: Draft, containers: tuple[Container, ...]) -> None:
    """Remove what a crash left beside a slot's tenant: it never had the slot's address."""
    chosen = {tenant.id for tenant in draft.tenants.values()}
    for container in containers:
        busy = draft.job(container.slot) is not None or draft.has_planned_job(container.slot)
        if container.id not in chosen and not busy:
            draft.jobs.append(Stop(container.slot, container.id, 0.0, "left over beside the slot's tenant"))

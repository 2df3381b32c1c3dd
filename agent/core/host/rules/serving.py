"""
Serve one release and hold another beside it: stage, switch, and restart what serves.

The pin of a staged release comes from `staging`; `build_plan` puts the actions of all rules in order.
"""

from agent.core.host.actions import SetState, Switch
from agent.core.host.plan import SlotView
from agent.core.host.plan_builder import BUSY_POLL_S, NOTHING, Fragment, merge
from agent.core.host.rules.context import RuleContext, SlotRole
from agent.core.host.rules.placing import acquire_slot
from agent.core.host.rules.readiness import missing_release
from agent.core.host.rules.retiring import DRAIN_POLL_S, restart, track_idle_time
from agent.core.host.rules.staging import stage, why_not_staged
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase


def serve(context: RuleContext) -> Fragment:
    """Get the release to serve into a free slot, check it, switch to it when it is staged; restart it if it died."""
    release = context.serve
    if release is None:
        return NOTHING
    slot = context.slot_with(SlotRole.SERVE)
    if slot is None:
        return acquire_slot(context, release)
    if context.server(slot).is_ready:
        return merge(_go_on_serving(context, slot), _finish_switch(context, slot))
    problem = why_not_staged(context, slot, release)
    staging = stage(context, slot, release, problem)
    return staging if problem is not None else merge(staging, _switch(context.after(staging), slot))


def hold(context: RuleContext) -> Fragment:
    """Get the release to hold staged beside the one that serves; no new visitor reaches it."""
    release = context.at.desired.hold
    if release is None:
        return NOTHING
    slot = context.slot_with(SlotRole.HOLD)
    if slot is None:
        is_next = context.serve is None or SlotRole.SERVE in context.roles.values()
        return acquire_slot(context, release) if is_next else NOTHING
    if context.server(slot).is_ready:
        return _go_on_serving(context, slot)
    problem = why_not_staged(context, slot, release)
    staging = stage(context, slot, release, problem)
    return staging if problem is not None else merge(staging, _keep_warm(context, slot))


def go_on_serving(context: RuleContext) -> Fragment:
    """Leave in traffic what serves until another release is switched to."""
    planned = NOTHING
    for slot, role in context.roles.items():
        is_shown = role in (SlotRole.SERVE, SlotRole.HOLD) or slot in context.planned.views
        if context.server(slot).is_ready and not is_shown:
            planned = merge(planned, _go_on_serving(context, slot))
    return planned


def _switch(context: RuleContext, slot: SlotName) -> Fragment:
    other, now = slot.other, context.now
    if missing_release(context) is not None and context.proxy.gate is not ReadinessGate.CLOSED:
        # The switch may make the host ready: `set_gate` closes the gate in this tick, and the next one switches.
        return Fragment(look_again_at=now)
    was_ready = context.server(other).is_ready
    old_to = _state_after(context.roles.get(other)) if was_ready else _planned_state(context, other)
    views = {slot: SlotView(SlotPhase.SERVING)}
    if was_ready:
        views[other] = SlotView(SlotPhase.DRAINING, f"slot {slot} gets the new visitors")
    return Fragment(
        states=(Switch(slot, other, old_to),),
        views=views,
        look_again_at=now,
        slots={slot: {"served": True, "admin": AdminState.READY, "drain_since": None}},
    )


def _finish_switch(context: RuleContext, slot: SlotName) -> Fragment:
    """Take the other slot out where a switch was broken off between its two halves."""
    other, now = slot.other, context.now
    if not context.server(other).is_ready or other not in context.occupants:
        return NOTHING
    if context.server(slot).is_serving:
        state = SetState(other, _state_after(context.roles.get(other)), f"slot {slot} serves")
        return Fragment(states=(state,), look_again_at=now)
    view = SlotView(SlotPhase.SERVING, f"until HAProxy calls slot {slot} up")
    return Fragment(views={other: view}, look_again_at=now + BUSY_POLL_S)


def _planned_state(context: RuleContext, slot: SlotName) -> AdminState:
    """Return the state of *slot* after what is planned so far."""
    states = [step.state for step in context.planned.states if isinstance(step, SetState) and step.slot is slot]
    return states[-1] if states else context.server(slot).admin


def _state_after(role: SlotRole | None) -> AdminState:
    """Return where a slot goes that has served: visitors finish, unless its release is taken back."""
    return AdminState.DRAIN if role in (SlotRole.KEEP, SlotRole.HOLD) else AdminState.MAINT


def _go_on_serving(context: RuleContext, slot: SlotName) -> Fragment:
    server = context.server(slot)
    if not context.occupants[slot].is_running:
        return restart(context, slot)
    if server.is_serving:
        return Fragment(views={slot: SlotView(SlotPhase.SERVING)})
    view = SlotView(SlotPhase.SERVING, f"HAProxy says {server.status}, {server.check}: {server.check_detail}")
    return Fragment(views={slot: view}, look_again_at=context.now + 1)


def _keep_warm(context: RuleContext, slot: SlotName) -> Fragment:
    views = {slot: SlotView(SlotPhase.DRAINING, "kept warm: the way back")} if context.slot(slot).served else {}
    if not context.at.desired.runs_both:
        return Fragment(views=views)
    # The fleet goes by its silence, and HAProxy sends no event.
    due = Fragment(views=views, look_again_at=context.now + DRAIN_POLL_S)
    return merge(track_idle_time(context, slot), due)

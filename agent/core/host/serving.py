"""Serve one release and hold another beside it: stage, switch, and restart what serves."""

from agent.core.host.actions import SetState, Switch
from agent.core.host.placing import place
from agent.core.host.plan import SlotView
from agent.core.host.plan_builder import BUSY_POLL_S, NOTHING, Fragment, merge
from agent.core.host.readiness import still_joins
from agent.core.host.retiring import DRAIN_POLL_S, revive, watch_silence
from agent.core.host.rule_context import Goal, RuleContext
from agent.core.host.staging import stage, why_not_staged
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, Gate, SlotPhase


def serve(context: RuleContext) -> Fragment:
    """Get the release to serve into a free slot, check it, switch to it when it is staged; restart it if it died."""
    want = context.serve
    if want is None:
        return NOTHING
    slot = context.slot_with(Goal.SERVE)
    if slot is None:
        return place(context, want)
    if context.server(slot).is_ready:
        return merge(_go_on_serving(context, slot), _finish_switch(context, slot))
    problem = why_not_staged(context, slot, want)
    staging = stage(context, slot, want, problem)
    return staging if problem is not None else merge(staging, _switch(context.after(staging), slot))


def hold(context: RuleContext) -> Fragment:
    """Get the release to hold staged beside the one that serves; no new visitor reaches it."""
    want = context.at.desired.hold
    if want is None:
        return NOTHING
    slot = context.slot_with(Goal.HOLD)
    if slot is None:
        is_next = context.serve is None or Goal.SERVE in context.goals.values()
        return place(context, want) if is_next else NOTHING
    if context.server(slot).is_ready:
        return _go_on_serving(context, slot)
    problem = why_not_staged(context, slot, want)
    staging = stage(context, slot, want, problem)
    return staging if problem is not None else merge(staging, _keep_warm(context, slot))


def go_on_serving(context: RuleContext) -> Fragment:
    """Leave in traffic what serves until another release is switched to."""
    planned = NOTHING
    for slot, goal in context.goals.items():
        is_shown = goal in (Goal.SERVE, Goal.HOLD) or slot in context.planned.views
        if context.server(slot).is_ready and not is_shown:
            planned = merge(planned, _go_on_serving(context, slot))
    return planned


def _switch(context: RuleContext, slot: SlotName) -> Fragment:
    other, now = slot.other, context.now
    if still_joins(context) is not None and context.proxy.gate is not Gate.CLOSED:
        return Fragment(look_again_at=now)  # the gate goes first: the switch may make the host ready
    was_ready = context.server(other).is_ready
    old_to = _state_after(context.goals.get(other)) if was_ready else _planned_state(context, other)
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
    if not context.server(other).is_ready or other not in context.tenants:
        return NOTHING
    if context.server(slot).is_serving:
        state = SetState(other, _state_after(context.goals.get(other)), f"slot {slot} serves")
        return Fragment(states=(state,), look_again_at=now)
    view = SlotView(SlotPhase.SERVING, f"until HAProxy calls slot {slot} up")
    return Fragment(views={other: view}, look_again_at=now + BUSY_POLL_S)


def _planned_state(context: RuleContext, slot: SlotName) -> AdminState:
    """Return the state of *slot* after what is planned so far."""
    states = [step.state for step in context.planned.states if isinstance(step, SetState) and step.slot is slot]
    return states[-1] if states else context.server(slot).admin


def _state_after(goal: Goal | None) -> AdminState:
    """Return where a slot goes that has served: visitors finish, unless its release is taken back."""
    return AdminState.DRAIN if goal in (Goal.KEEP, Goal.HOLD) else AdminState.MAINT


def _go_on_serving(context: RuleContext, slot: SlotName) -> Fragment:
    server = context.server(slot)
    if not context.tenants[slot].is_running:
        return revive(context, slot)
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
    return merge(watch_silence(context, slot), due)

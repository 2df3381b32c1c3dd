"""
Decide what is safe to do now. Pure: the same situation gives the same plan.

Three things end a tick early; first match wins:

==================  ====================================================================
seen                planned
==================  ====================================================================
HAProxy is away     nothing
HAProxy restarted   the slots' states as they were, the serving one first
Docker is away      nothing; pins stay
==================  ====================================================================

Else each rule adds its fragment, in this order; what is not due yet is only shown, with its reason:

=====================  =================================================================
rule                   plans
=====================  =================================================================
mark_ready             to remember that the host has both releases of a rollout
keep_pins              the pins of all that visitors may hold (staging adds a new one)
tidy_empty_slots       ``maint`` for slots without a container
retire                 out of traffic, not wanted: visitors finish (KEEP), or go back at
                       once, and the container when empty (LEAVE)
serve                  the release to serve: into a free slot, checked, switched to when
                       it is staged; restarted if it died
hold                   the release beside it: staged; no new visitor reaches it
go_on_serving          in traffic, not wanted: nothing before a switch took it out
set_gate               whether load balancers send visitors here
cancel_unwanted_pulls  the end of pulls that nobody wants any more
prune                  the removal of an old image
say_why_unchanged      a note, where nothing is to be changed
remove_doubles         the removal of containers beside a slot's occupant
=====================  =================================================================

The order of the rules is not the order of the actions: `build_plan` puts those in order. The invariant is S1: no action
removes the last slot that is ready and up, not even between two commands.
"""

from agent.core.host.desired import Unchanged
from agent.core.host.observed import Unavailable
from agent.core.host.plan import Plan, SlotView
from agent.core.host.plan_builder import NOTHING, DecisionInput, Fragment, build_plan
from agent.core.host.rules.cleanup import keep_pins, remove_doubles, tidy_empty_slots
from agent.core.host.rules.context import RuleContext
from agent.core.host.rules.placing import cancel_unwanted_pulls
from agent.core.host.rules.pruning import prune
from agent.core.host.rules.readiness import mark_ready, set_gate
from agent.core.host.rules.restoring import restore_slot_states
from agent.core.host.rules.retiring import retire
from agent.core.host.rules.serving import go_on_serving, hold, serve
from agent.core.host.slot_roles import slot_roles
from agent.core.host.update_memory import freeze_timers, occupants_of, update_memory
from agent.core.model.names import SlotName
from agent.core.model.states import SlotPhase


def decide(decision_input: DecisionInput) -> Plan:
    """Return what is safe now, when to look again, the next memory and what to show."""
    observed, desired, now = decision_input.observed, decision_input.desired, decision_input.now
    memory = update_memory(decision_input.memory, observed, desired, now)
    if isinstance(observed.proxy, Unavailable) or isinstance(observed.containers, Unavailable):
        memory = freeze_timers(memory, now)
    if isinstance(observed.proxy, Unavailable):
        views = {slot: SlotView(SlotPhase.UNKNOWN, observed.proxy.reason) for slot in SlotName}
        return Plan((), now + 0.5, memory, views, notes=(observed.proxy.reason, *desired.notes))
    occupants = {} if isinstance(observed.containers, Unavailable) else occupants_of(observed.containers)
    context = RuleContext(decision_input, observed.proxy, occupants, memory, Fragment(notes=desired.notes))
    restoring = restore_slot_states(context)
    context = context.after(restoring)
    if not restoring.states:
        context = _after_all_rules(context)
    return build_plan(context.planned, context.proxy, context.memory, now)


def _after_all_rules(context: RuleContext) -> RuleContext:
    containers = context.at.observed.containers
    if isinstance(containers, Unavailable):
        return context.after(_without_docker(context, containers.reason))
    context = context.with_roles(slot_roles(context))
    for rule in _RULES:
        context = context.after(rule(context))
    return context


def _without_docker(context: RuleContext, reason: str) -> Fragment:
    view = SlotView(SlotPhase.UNKNOWN, reason)
    return Fragment(
        pins=context.proxy.pins,
        views=dict.fromkeys(SlotName, view),
        notes=(reason,),
        look_again_at=context.now + 1,
    )


def say_why_unchanged(context: RuleContext) -> Fragment:
    """Note why nothing is to be changed."""
    followed = context.at.desired.serve
    return Fragment(notes=(followed.reason,)) if isinstance(followed, Unchanged) else NOTHING


_RULES = (
    mark_ready,
    keep_pins,
    tidy_empty_slots,
    retire,
    serve,
    hold,
    go_on_serving,
    set_gate,
    cancel_unwanted_pulls,
    prune,
    say_why_unchanged,
    remove_doubles,
)
"""A rule may replace the view of a slot or drop a pin that an earlier one planned, but never an action."""

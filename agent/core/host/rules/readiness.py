"""
While the fleet runs two releases, a host that lacks one of them is not ready until it has it.

Visitors of either release may be sent to a host the moment it says ready, and each must find theirs (design.md,
section 5). That concerns a host that boots between the commit and the end of the bake, and one that was away from
Consul while the others staged. A host that once had both in this rollout and this boot stays ready whatever becomes of
them, and a release that has failed with a reason is not waited for, nor one that does not come back within
``healthy_deadline``: a broken release must never make every host unready.

A host that is not ready yet when its release is taken back stays so until it serves another one: it would give the
release that goes to visitors of the one that comes back.
"""

from agent.core.host.actions import SetReadinessGate
from agent.core.host.desired import DesiredRelease, HoldingPage
from agent.core.host.memory import Failure, SlotMemory
from agent.core.host.plan_builder import NOTHING, Fragment, merge
from agent.core.host.rules.context import RuleContext
from agent.core.host.rules.retiring import DRAIN_POLL_S
from agent.core.model.names import SlotName
from agent.core.model.states import ReadinessGate

ATTEMPTS_MAX = 5
"""What may pass by itself (a registry away) has failed after this many attempts, about a minute."""


def mark_ready(context: RuleContext) -> Fragment:
    """Remember for which rollout this host may be ready: it has both releases, or was ready when we first looked."""
    hold, known = context.at.desired.hold, context.memory.ready_for
    generation = hold.generation if hold is not None else 0
    if hold is not None and known != generation and not _lacks(context):
        return Fragment(memory={"ready_for": generation})
    if known is None and _is_told_ready(context):
        return Fragment(memory={"ready_for": generation if context.at.desired.runs_both else 0})
    return NOTHING


def missing_release(context: RuleContext) -> str | None:
    """Return what this host lacks before it may be ready; None when it lacks nothing."""
    hold = context.at.desired.hold
    if hold is None or not context.at.desired.runs_both or context.memory.ready_for == hold.generation:
        return None
    return _lacks(context)


def _still_gives_back(context: RuleContext) -> str | None:
    """Return what keeps a host unready that was not ready when its release was taken back; None when nothing does."""
    release, back = context.serve, context.at.desired.taken_back
    if release is None or back is None or context.proxy.gate is not ReadinessGate.CLOSED:
        return None
    serving = (held for slot, held in context.occupants.items() if context.server(slot).is_ready)
    if _has_failed(context.memory.failures.get(release.key)) or not any(back.is_met_by(held) for held in serving):
        return None
    return f"not ready before it serves {release.reference}: {back.reference} is taken back"


def set_gate(context: RuleContext) -> Fragment:
    """Tell load balancers whether the host is ready, and whether the holding page may answer."""
    lack, memory = missing_release(context), context.memory
    note = f"not ready before it runs both releases: {lack}" if lack is not None else _still_gives_back(context)
    serves = any(context.server(slot).is_ready for slot in SlotName)
    holding = not serves and (memory.holding or isinstance(context.at.desired.serve, HoldingPage))
    gate = (
        ReadinessGate.CLOSED
        if memory.leaving or note is not None
        else ReadinessGate.HOLDING
        if holding
        else ReadinessGate.OPEN
    )
    is_set = gate is context.proxy.gate and context.proxy.gate_saved
    planned = NOTHING if is_set else Fragment(gate=SetReadinessGate(gate))
    if holding is not memory.holding:
        planned = merge(planned, Fragment(memory={"holding": holding}))
    if note is not None:
        planned = merge(planned, Fragment(notes=(note,), look_again_at=context.now + 1))
    if memory.leaving:
        # A shutdown waits until nothing is open, and HAProxy sends no event.
        planned = merge(planned, Fragment(look_again_at=context.now + DRAIN_POLL_S))
    return planned


def _is_told_ready(context: RuleContext) -> bool:
    """Whether load balancers send visitors here now."""
    serves = any(server.is_serving for server in context.proxy.servers.values())
    return context.proxy.gate is ReadinessGate.HOLDING or (context.proxy.gate is ReadinessGate.OPEN and serves)


def _lacks(context: RuleContext) -> str | None:
    releases = (release for release in (context.serve, context.at.desired.hold) if release is not None)
    return next((reason for release in releases if (reason := _lack(context, release)) is not None), None)


def _lack(context: RuleContext, release: DesiredRelease) -> str | None:
    """Return why visitors of *release* would not find it here; None also for a release that has failed."""
    if _has_failed(context.memory.failures.get(release.key)):
        return None
    occupant = next((occupant for occupant in context.occupants.values() if release.is_met_by(occupant)), None)
    if occupant is None:
        return f"{release.reference} does not run yet"
    if _does_not_come_back(context, context.slot(occupant.slot)):
        return None
    server = context.server(occupant.slot)
    is_pinned = context.proxy.pins_saved and context.proxy.pins.get(occupant.slot) == release.pin_for(occupant)
    if is_pinned and context.slot(occupant.slot).staged and (server.is_known_good or server.is_ready):
        return None
    return f"{release.reference} is not staged yet"


def _does_not_come_back(context: RuleContext, known: SlotMemory) -> bool:
    """
    Whether a release that visitors have reached was given time enough to stand again.

    It never fails, as they may hold it: it is started and checked again and again.
    """
    since = known.checking_since
    return known.served and since is not None and context.now >= since + context.knobs.healthy_deadline


def _has_failed(failure: Failure | None) -> bool:
    return failure is not None and (not failure.transient or failure.attempts >= ATTEMPTS_MAX)

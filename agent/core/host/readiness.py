"""
While the fleet runs two releases, a host that lacks one of them is not ready until it has it.

Visitors of either release may be sent to a host the moment it says ready, and each must find theirs (design.md,
section 5). That concerns a host that boots between the commit and the end of the bake, and one that was away from
Consul while the others staged. A host that once had both in this rollout and this boot stays ready whatever becomes of
them, and a release that has failed with a reason is not waited for, nor one that does not come back within
``healthy_deadline``: never may what is wrong with a release close every gate.
"""

from agent.core.host.desired import Want
from agent.core.host.memory import Failure, SlotMemory
from agent.core.host.plan_builder import Draft, is_ready
from agent.core.model.states import Gate

ATTEMPTS_MAX = 5
"""What may pass by itself (a registry away) has failed after this many attempts, about a minute."""


def note_ready(draft: Draft) -> None:
    """Remember for which rollout this host may be ready: it has both releases, or was ready when we first looked."""
    hold, known = draft.at.desired.hold, draft.memory.ready_for
    generation = hold.generation if hold is not None else 0
    if hold is not None and known != generation and not _lacks(draft):
        draft.memory = draft.memory.but(ready_for=generation)
    elif known is None and _is_told_ready(draft):
        draft.memory = draft.memory.but(ready_for=generation if draft.at.desired.runs_both else 0)


def still_joins(draft: Draft) -> str | None:
    """Say what this host lacks before it may be ready; None when nothing."""
    hold = draft.at.desired.hold
    if hold is None or not draft.at.desired.runs_both or draft.memory.ready_for == hold.generation:
        return None
    return _lacks(draft)


def _is_told_ready(draft: Draft) -> bool:
    """Whether load balancers send visitors here now."""
    serves = any(server.is_serving for server in draft.proxy.servers.values())
    return draft.proxy.gate is Gate.HOLDING or (draft.proxy.gate is Gate.OPEN and serves)


def _lacks(draft: Draft) -> str | None:
    wants = (want for want in (draft.serve, draft.at.desired.hold) if want is not None)
    return next((reason for want in wants if (reason := _lack(draft, want)) is not None), None)


def _lack(draft: Draft, want: Want) -> str | None:
    """Say why visitors of *want* would not find it here; a release that has failed is not waited for."""
    if _has_failed(draft.memory.failures.get(want.key)):
        return None
    tenant = next((tenant for tenant in draft.tenants.values() if want.is_met_by(tenant)), None)
    if tenant is None:
        return f"{want.reference} does not run yet"
    if _does_not_come_back(draft, draft.slot(tenant.slot)):
        return None
    server = draft.server(tenant.slot)
    is_pinned = draft.proxy.pins_saved and draft.proxy.pins.get(tenant.slot) == want.pin_for(tenant)
    if is_pinned and draft.slot(tenant.slot).staged and (server.is_known_good or is_ready(server)):
        return None
    return f"{want.reference} is not staged yet"


def _does_not_come_back(draft: Draft, known: SlotMemory) -> bool:
    """
    Whether a release that visitors have reached was given time enough to stand again.

    It never fails, as they may hold it: it is started and checked again and again.
    """
    since = known.checking_since
    return known.served and since is not None and draft.now >= since + draft.at.app.knobs.healthy_deadline


def _has_failed(failure: Failure | None) -> bool:
    return failure is not None and (not failure.transient or failure.attempts >= ATTEMPTS_MAX)

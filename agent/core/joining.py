"""
A host that boots while the fleet runs two releases tells load balancers that it is ready once it runs both.

Visitors of either release may be sent to it the moment it says ready, and each must find theirs (design.md, section 5,
"Joins"). A host that was ready once in this boot never loses that by it: nothing here closes a gate that was open.
"""

from agent.core.draft import Draft
from agent.core.memory import Failure
from agent.core.observed import Gate

ATTEMPTS_MAX = 5
"""What may pass by itself (a registry away) has failed after this many attempts, about a minute."""


def note_ready(draft: Draft) -> None:
    """Remember that load balancers were told in this boot that the host is ready."""
    serves = any(server.is_serving for server in draft.proxy.servers.values())
    is_told = draft.proxy.gate is Gate.HOLDING or (draft.proxy.gate is Gate.OPEN and serves)
    if is_told and not draft.memory.joined:
        draft.memory = draft.memory.but(joined=True)


def still_joins(draft: Draft) -> str | None:
    """Say what a booting host lacks before it may be ready; None when nothing, or when it was ready before."""
    desired = draft.at.desired
    if draft.memory.joined or not desired.runs_both or desired.hold is None:
        return None
    hold = desired.hold
    if _has_failed(draft.memory.failures.get(hold.key)):
        return None
    tenant = next((tenant for tenant in draft.tenants.values() if hold.is_met_by(tenant)), None)
    if tenant is None:
        return f"{hold.reference} does not run yet"
    is_pinned = draft.proxy.pins_saved and draft.proxy.pins.get(tenant.slot) == hold.pin_for(tenant)
    if draft.slot(tenant.slot).staged and is_pinned and draft.server(tenant.slot).is_known_good:
        return None
    return f"{hold.reference} is not staged yet"


def _has_failed(failure: Failure | None) -> bool:
    return failure is not None and (not failure.transient or failure.attempts >= ATTEMPTS_MAX)

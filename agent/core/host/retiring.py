"""How a tenant goes: visitors finish in drain, then maint, empty, stop. And how a dead one comes back."""

from agent.core.host.actions import SetState, ShutdownSessions, Start, Stop
from agent.core.host.observed import Container, ContainerState, Server
from agent.core.host.plan_builder import BUSY_POLL_S, Draft
from agent.core.model.durations import format_duration
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, SlotPhase

DRAIN_POLL_S = 1.0
BUSY_AHEAD_S = 5.0
EMPTYING_POLL_S = 0.02
"""facts/haproxy: poll every 20 ms after maint; 0 errors when the container ends at the first empty look."""


def keep(draft: Draft, slot: SlotName, tenant: Container) -> None:
    """Keep a release that visitors may hold until they are silent, or ``drain_timeout`` is over."""
    knobs, server, known = draft.at.app.knobs, draft.server(slot), draft.slot(slot)
    if known.leave_since is not None or server.admin is AdminState.MAINT:
        leave(draft, slot, tenant, known.leave_reason or "held by nobody any more", knobs.stop_grace_period)
        return
    since = known.drain_since if known.drain_since is not None else draft.now
    draft.remember(slot, drain_since=since)
    age = draft.now - since
    quiet_for = watch_silence(draft, slot)
    if age >= knobs.drain_timeout:
        reason = f"drain_timeout of {format_duration(knobs.drain_timeout)} is over"
        leave(draft, slot, tenant, reason, knobs.stop_grace_period)
    elif age >= knobs.bake_time and quiet_for >= knobs.visit_idle:
        leave(draft, slot, tenant, f"no request for {format_duration(knobs.visit_idle)}", knobs.stop_grace_period)
    else:
        if not tenant.is_running:
            revive(draft, slot, tenant)
        else:
            draft.show(slot, SlotPhase.DRAINING, _drain_reason(draft, server, since))
        due = max(since + knobs.bake_time, draft.now + knobs.visit_idle - quiet_for)
        draft.look(min(since + knobs.drain_timeout, max(due, draft.now + BUSY_POLL_S), draft.now + DRAIN_POLL_S))


def leave(draft: Draft, slot: SlotName, tenant: Container, reason: str, patience_s: float) -> None:
    """
    Take a tenant out: maint, wait until its slot is empty, stop, remove.

    Args:
        reason: for the operator and the log.
        patience_s: how long open requests may take in maint before they are cut.
    """
    server, known = draft.server(slot), draft.slot(slot)
    since = known.leave_since if known.leave_since is not None else draft.now
    draft.remember(slot, leave_since=since, leave_reason=reason)
    if draft.job(slot) is not None:
        draft.show(slot, SlotPhase.STOPPING, reason)
        return
    if server.admin is not AdminState.MAINT:
        draft.states.append(SetState(slot, AdminState.MAINT, reason))
        draft.show(slot, SlotPhase.LEAVING, reason)
        draft.look(draft.now + EMPTYING_POLL_S)
        return
    busy = _busy(draft, server)
    left = since + patience_s - draft.now
    if busy is not None and left > 0:
        draft.show(slot, SlotPhase.LEAVING, f"{reason}; {busy}, cut in at most {format_duration(left)}")
        draft.look(draft.now + min(left, EMPTYING_POLL_S if draft.now - since < 1 else 0.25))
    elif busy is not None and not known.cut:
        draft.states.append(ShutdownSessions(slot, f"{busy} after {format_duration(patience_s)}"))
        draft.remember(slot, cut=True)
        draft.show(slot, SlotPhase.LEAVING, f"{reason}; open requests are cut")
        draft.look(draft.now + BUSY_POLL_S)
    else:
        _stop(draft, slot, tenant, reason)


def revive(draft: Draft, slot: SlotName, tenant: Container) -> None:
    """Start a container that visitors reach or hold again, each time after a longer pause, up to a minute."""
    known, job = draft.slot(slot), draft.job(slot)
    if job is not None:
        draft.show(slot, SlotPhase.RESTARTING, _death(tenant))
        return
    match tenant.state:
        case ContainerState.PAUSED | ContainerState.REMOVING | ContainerState.RESTARTING:
            draft.show(slot, SlotPhase.RESTARTING, f"container is {tenant.state}, not by Tidegate")
            draft.look(draft.now + 1)
            return
        case ContainerState.DEAD:
            _stop(draft, slot, tenant, "Docker calls the container dead")
            return
        case _:
            pass
    restarts, due = known.restarts, known.restart_at
    if due is None:
        due = draft.now + (min(60.0, 2.0 ** (restarts - 1)) if restarts else 0.0)
        draft.remember(slot, restarts=restarts + 1, restart_at=due)
    reason = f"{_death(tenant)}; start {draft.slot(slot).restarts}"
    if draft.now >= due:
        draft.jobs.append(Start(slot, tenant.id, _death(tenant)))
        draft.remember(slot, restart_at=None)
        draft.show(slot, SlotPhase.RESTARTING, f"{reason} now")
        draft.look(draft.now + BUSY_POLL_S)
        return
    draft.show(slot, SlotPhase.RESTARTING, f"{reason} in {format_duration(due - draft.now)}")
    draft.look(due)


def watch_silence(draft: Draft, slot: SlotName) -> float:
    """
    Return the seconds since a visitor was last seen on it: also one of an old worker's, and to the end of a stream.

    HAProxy counts from the start of the last request, and a new worker knows nothing of those of the one before it.
    The time is noted a little ahead, so that a busy slot does not change the journal at each look. What is returned
    is also what the host reports.
    """
    server, busy_at = draft.server(slot), draft.slot(slot).busy_at
    if _busy(draft, server) is not None and (busy_at is None or busy_at < draft.now):
        busy_at = draft.now + min(BUSY_AHEAD_S, draft.at.app.knobs.visit_idle / 10)
        draft.remember(slot, busy_at=busy_at)
    age = server.last_request_age_s
    draft.silence[slot] = age if busy_at is None else max(0.0, min(age, draft.now - busy_at))
    return draft.silence[slot]


def _stop(draft: Draft, slot: SlotName, tenant: Container, reason: str) -> None:
    grace_s = draft.at.app.knobs.stop_grace_period if tenant.stop_grace_s is None else tenant.stop_grace_s
    draft.jobs.append(Stop(slot, tenant.id, grace_s, reason, draft.slot(slot).failed_key))
    draft.show(slot, SlotPhase.STOPPING, reason)
    draft.look(draft.now + BUSY_POLL_S)


def _busy(draft: Draft, server: Server) -> str | None:
    """Say what is still open on a slot; None when nothing is, in this HAProxy worker and in older ones."""
    if server.open_requests or server.queued:
        count = server.open_requests + server.queued
        return f"{count} open request{'s' if count > 1 else ''}"
    match draft.proxy.old_workers:
        case None:
            return "HAProxy's master socket does not say whether old workers live"
        case 0:
            return None
        case count:
            return f"{count} old HAProxy worker{'s' if count > 1 else ''} may still serve it"


def _drain_reason(draft: Draft, server: Server, since: float) -> str:
    knobs = draft.at.app.knobs
    left = format_duration(since + knobs.drain_timeout - draft.now)
    what = _busy(draft, server) or f"last request {format_duration(server.last_request_age_s)} ago"
    return f"{what}; at most {left}"


def _death(tenant: Container) -> str:
    detail = f" ({tenant.error})" if tenant.error else ""
    if tenant.state is ContainerState.CREATED:
        return f"container was created and not started{detail}"
    return f"container {tenant.state} with code {tenant.exit_code}{detail}"

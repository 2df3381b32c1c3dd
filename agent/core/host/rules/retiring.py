"""Take an occupant out of service: drain until its visitors have finished, maint, empty, stop. Restart a dead one."""

from agent.core.host.actions import SetState, ShutdownSessions, Start, Stop
from agent.core.host.memory import SlotChanges
from agent.core.host.observed import Container, ContainerState, Server
from agent.core.host.plan import SlotView
from agent.core.host.plan_builder import BUSY_POLL_S, NOTHING, Fragment, merge
from agent.core.host.rules.context import RuleContext, SlotRole
from agent.core.model.durations import format_duration
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, SlotPhase

DRAIN_POLL_S = 1.0
BUSY_AHEAD_S = 5.0
EMPTYING_POLL_S = 0.02
"""Measured: polled every 20 ms after maint, 0 errors when the container ends at the first empty look."""


def retire(context: RuleContext) -> Fragment:
    """Drain or remove each occupant that is not ``ready`` in HAProxy and is neither to serve nor to be held."""
    planned = NOTHING
    for slot, role in context.roles.items():
        if not context.server(slot).is_ready:
            planned = merge(planned, _retire_slot(context, slot, role))
    return planned


def _retire_slot(context: RuleContext, slot: SlotName, role: SlotRole) -> Fragment:
    match role:
        case SlotRole.SERVE | SlotRole.HOLD:
            return NOTHING
        case SlotRole.STAY:
            phase = SlotPhase.DRAINING if context.slot(slot).served else SlotPhase.WAITING
            return Fragment(views={slot: SlotView(phase, "kept as it is")})
        case SlotRole.KEEP:
            return keep_draining(context, slot)
        case SlotRole.LEAVE:
            return _release_slot(context, slot)


def _release_slot(context: RuleContext, slot: SlotName) -> Fragment:
    desired, timings, known = context.at.desired, context.knobs, context.slot(slot)
    occupant, back = context.occupants[slot], desired.taken_back
    if known.leave_reason:
        reason = known.leave_reason
    elif back is not None and back.is_met_by(occupant):
        reason = "taken back"
    elif desired.retire_now:
        reason = "the fleet has left it"
    else:
        reason = "wanted by nobody"
    timeout_s = timings.stop_grace_period if desired.retire_now else timings.drain_timeout
    leaving = drain(context, slot, reason, timeout_s if known.served else 0.0)
    failure = context.memory.failures.get(known.failed_key or "")
    if failure is None:
        return leaving
    view = SlotView(SlotPhase.FAILED, f"{occupant.reference}: {failure.reason}", failure.lines)
    return merge(leaving, Fragment(views={slot: view}))


def keep_draining(context: RuleContext, slot: SlotName) -> Fragment:
    """Keep a release that visitors may hold until they are silent, or ``drain_timeout`` is over."""
    timings, server, known, now = context.knobs, context.server(slot), context.slot(slot), context.now
    grace_s = timings.stop_grace_period
    if known.leave_since is not None or server.admin is AdminState.MAINT:
        return drain(context, slot, known.leave_reason or "held by nobody any more", grace_s)
    since = known.drain_since if known.drain_since is not None else now
    age = now - since
    watched = track_idle_time(context, slot)
    quiet_for = watched.idle_for_s[slot]
    drained = merge(watched, Fragment(slots={slot: {"drain_since": since}}))
    if age >= timings.drain_timeout:
        reason = f"drain_timeout of {format_duration(timings.drain_timeout)} is over"
        return merge(drained, drain(context, slot, reason, grace_s))
    if age >= timings.bake_time and quiet_for >= timings.visit_idle:
        return merge(drained, drain(context, slot, f"no request for {format_duration(timings.visit_idle)}", grace_s))
    if context.occupants[slot].is_running:
        shown = Fragment(views={slot: SlotView(SlotPhase.DRAINING, _drain_reason(context, server, since))})
    else:
        shown = restart(context, slot)
    due = max(since + timings.bake_time, now + timings.visit_idle - quiet_for)
    look = min(since + timings.drain_timeout, max(due, now + BUSY_POLL_S), now + DRAIN_POLL_S)
    return merge(merge(drained, shown), Fragment(look_again_at=look))


def drain(context: RuleContext, slot: SlotName, reason: str, timeout_s: float) -> Fragment:
    """
    Take an occupant out: maint, wait until its slot is empty, stop, remove.

    Args:
        context: what is known.
        slot: of the occupant.
        reason: for the operator and the log.
        timeout_s: how long open requests may take in maint before they are cut.
    """
    known, now = context.slot(slot), context.now
    since = known.leave_since if known.leave_since is not None else now
    remembered: SlotChanges = {"leave_since": since, "leave_reason": reason}
    if context.job(slot) is not None:
        return Fragment(views={slot: SlotView(SlotPhase.STOPPING, reason)}, slots={slot: remembered})
    if context.server(slot).admin is not AdminState.MAINT:
        return Fragment(
            states=(SetState(slot, AdminState.MAINT, reason),),
            views={slot: SlotView(SlotPhase.LEAVING, reason)},
            look_again_at=now + EMPTYING_POLL_S,
            slots={slot: remembered},
        )
    busy = _busy(context, context.server(slot))
    left = since + timeout_s - now
    if busy is not None and left > 0:
        view = SlotView(SlotPhase.LEAVING, f"{reason}; {busy}, cut in at most {format_duration(left)}")
        look = now + min(left, EMPTYING_POLL_S if now - since < 1 else 0.25)
        return Fragment(views={slot: view}, look_again_at=look, slots={slot: remembered})
    if busy is not None and not known.sessions_closed:
        return Fragment(
            states=(ShutdownSessions(slot, f"{busy} after {format_duration(timeout_s)}"),),
            views={slot: SlotView(SlotPhase.LEAVING, f"{reason}; open requests are cut")},
            look_again_at=now + BUSY_POLL_S,
            slots={slot: remembered | {"sessions_closed": True}},
        )
    return merge(Fragment(slots={slot: remembered}), _stop(context, slot, reason))


def restart(context: RuleContext, slot: SlotName) -> Fragment:
    """Start a container again, after a back-off of 1 s that doubles up to 60 s; the first restart is immediate."""
    known, occupant, now = context.slot(slot), context.occupants[slot], context.now
    death = _death(occupant)
    if context.job(slot) is not None:
        return Fragment(views={slot: SlotView(SlotPhase.RESTARTING, death)})
    match occupant.state:
        case ContainerState.PAUSED | ContainerState.REMOVING | ContainerState.RESTARTING:
            view = SlotView(SlotPhase.RESTARTING, f"container is {occupant.state}, not by Tidegate")
            return Fragment(views={slot: view}, look_again_at=now + 1)
        case ContainerState.DEAD:
            return _stop(context, slot, "Docker calls the container dead")
        case _:
            pass
    restarts, due = known.restarts, known.restart_at
    if due is None:
        due = now + (min(60.0, 2.0 ** (restarts - 1)) if restarts else 0.0)
        restarts += 1
    if now >= due:
        return Fragment(
            jobs=(Start(slot, occupant.id, death),),
            views={slot: SlotView(SlotPhase.RESTARTING, f"{death}; start {restarts} now")},
            look_again_at=now + BUSY_POLL_S,
            slots={slot: {"restarts": restarts, "restart_at": None}},
        )
    view = SlotView(SlotPhase.RESTARTING, f"{death}; start {restarts} in {format_duration(due - now)}")
    return Fragment(views={slot: view}, look_again_at=due, slots={slot: {"restarts": restarts, "restart_at": due}})


def track_idle_time(context: RuleContext, slot: SlotName) -> Fragment:
    """
    Measure the seconds since a visitor was last seen on *slot*: also one of an old worker's, and to a stream's end.

    HAProxy counts from the start of the last request, and a new worker knows nothing of those of the one before it.
    The time is noted a little ahead, so that a busy slot does not change the journal at each look.

    Returns: the seconds as ``idle_for_s[slot]``, which the host also reports, and the time noted.
    """
    server, busy_at, now = context.server(slot), context.slot(slot).busy_at, context.now
    slots: dict[SlotName, SlotChanges] = {}
    if _busy(context, server) is not None and (busy_at is None or busy_at < now):
        busy_at = now + min(BUSY_AHEAD_S, context.knobs.visit_idle / 10)
        slots[slot] = {"busy_at": busy_at}
    age = server.last_request_age_s
    silence_s = age if busy_at is None else max(0.0, min(age, now - busy_at))
    return Fragment(idle_for_s={slot: silence_s}, slots=slots)


def _stop(context: RuleContext, slot: SlotName, reason: str) -> Fragment:
    occupant = context.occupants[slot]
    grace_s = context.knobs.stop_grace_period if occupant.stop_grace_s is None else occupant.stop_grace_s
    return Fragment(
        jobs=(Stop(slot, occupant.id, grace_s, reason, context.slot(slot).failed_key),),
        views={slot: SlotView(SlotPhase.STOPPING, reason)},
        look_again_at=context.now + BUSY_POLL_S,
    )


def _busy(context: RuleContext, server: Server) -> str | None:
    """Return what is still open on a slot, in this HAProxy worker or an older one; None when nothing is."""
    if server.open_requests or server.queued:
        count = server.open_requests + server.queued
        return f"{count} open request{'s' if count > 1 else ''}"
    match context.proxy.old_workers:
        case None:
            return "HAProxy's master socket does not say whether old workers live"
        case 0:
            return None
        case count:
            return f"{count} old HAProxy worker{'s' if count > 1 else ''} may still serve it"


def _drain_reason(context: RuleContext, server: Server, since: float) -> str:
    left = format_duration(since + context.knobs.drain_timeout - context.now)
    what = _busy(context, server) or f"last request {format_duration(server.last_request_age_s)} ago"
    return f"{what}; at most {left}"


def _death(occupant: Container) -> str:
    detail = f" ({occupant.error})" if occupant.error else ""
    if occupant.state is ContainerState.CREATED:
        return f"container was created and not started{detail}"
    return f"container {occupant.state} with code {occupant.exit_code}{detail}"

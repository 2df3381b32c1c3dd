"""
Check an occupant while no new visitor reaches it.

Staged means all of: healthy in our own probe for ``min_healthy_time`` without a break, its pin in the map file
and the runtime map, in HAProxy's ``drain``, and known good there (``DRAIN`` and ``L7OK``).
"""

from dataclasses import dataclass, replace
from enum import Enum, auto

from agent.core.host.actions import SetState
from agent.core.host.desired import DesiredRelease
from agent.core.host.memory import Failure
from agent.core.host.observed import Container, ContainerState, JobKind
from agent.core.host.plan import ProbeOrder, SlotView
from agent.core.host.plan_builder import BUSY_POLL_S, NOTHING, Fragment, merge
from agent.core.host.rules.context import RuleContext
from agent.core.host.rules.retiring import drain, restart
from agent.core.host.update_memory import with_failure
from agent.core.model.durations import format_duration
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, SlotPhase


class Check(Enum):
    """What an occupant has to pass, in this order."""

    NO_JOB = auto()
    RUNS = auto()
    IS_PROBED = auto()
    IS_HEALTHY = auto()
    HAPROXY = auto()


@dataclass(frozen=True, slots=True)
class Unstaged:
    """The first check that an occupant has not passed."""

    check: Check
    reason: str
    look_again_at: float
    """Monotonic seconds: when it may have passed it."""


def why_not_staged(context: RuleContext, slot: SlotName, release: DesiredRelease) -> Unstaged | None:
    """Return what keeps the occupant of *slot* from being staged as *release*; None: it is fit to be switched to."""
    job, occupant = context.job(slot), context.occupants[slot]
    if job is not None:
        return Unstaged(Check.NO_JOB, f"{job.kind} {release.reference}", context.now + BUSY_POLL_S)
    if not occupant.is_running:
        return Unstaged(Check.RUNS, f"container is {occupant.state}", context.now)
    problem = None if context.slot(slot).served else _own_probe(context, slot)
    return problem or _in_haproxy(context, slot, release)


def stage(context: RuleContext, slot: SlotName, release: DesiredRelease, problem: Unstaged | None) -> Fragment:
    """Do what the occupant of *slot* needs to pass its next check; where *problem* is None, remember it as staged."""
    if problem is None:
        return merge(_let_check(context, slot, release, problem), _remember_staged(context, slot, release))
    match problem.check:
        case Check.NO_JOB:
            job = context.job(slot)
            is_stopping = job is not None and job.kind is JobKind.STOP
            view = SlotView(SlotPhase.STOPPING if is_stopping else SlotPhase.STARTING, problem.reason)
            return Fragment(views={slot: view}, look_again_at=problem.look_again_at)
        case Check.RUNS:
            return _start_or_fail(context, slot, release, problem)
        case _:
            return _await(context, slot, release, problem)


def _own_probe(context: RuleContext, slot: SlotName) -> Unstaged | None:
    """Return what keeps our own probe from calling it healthy long enough."""
    health, known = context.at.observed.health.get(context.occupants[slot].id), context.slot(slot)
    if health is None or not health.probed:
        return None if known.staged else Unstaged(Check.IS_PROBED, "no probe yet", context.now + BUSY_POLL_S)
    if health.healthy_for_s is None:
        return Unstaged(Check.IS_HEALTHY, f"unhealthy: {health.detail}", context.now + 1)
    needed = 0.0 if known.staged else context.knobs.min_healthy_time
    left = needed - health.healthy_for_s
    if left <= 0:
        return None
    reason = f"healthy for {format_duration(health.healthy_for_s)} of {format_duration(needed)}"
    return Unstaged(Check.IS_HEALTHY, reason, context.now + left)


def _in_haproxy(context: RuleContext, slot: SlotName, release: DesiredRelease) -> Unstaged | None:
    """Return what keeps HAProxy from calling it good, and visitors of its pin from reaching it."""
    pin, server = release.pin_for(context.occupants[slot]), context.server(slot)
    if server.admin is AdminState.MAINT:
        return Unstaged(Check.HAPROXY, "HAProxy begins to check it", context.now + BUSY_POLL_S)
    if context.proxy.pins.get(slot) != pin or not context.proxy.pins_saved:
        return Unstaged(Check.HAPROXY, "its pin is being set", context.now)
    if not server.is_known_good:
        detail = f": {server.check_detail}" if server.check_detail else ""
        reason = f"HAProxy says {server.status}, {server.check}{detail}"
        return Unstaged(Check.HAPROXY, reason, context.now + BUSY_POLL_S)
    return None


def _let_check(context: RuleContext, slot: SlotName, release: DesiredRelease, problem: Unstaged | None) -> Fragment:
    """
    Let the agent probe it, HAProxy check it, and visitors of its pin reach it.

    HAProxy checks what has answered once, during ``min_healthy_time``, too: without a pin nobody reaches it.
    """
    occupant = context.occupants[slot]
    is_healthy = problem is None or problem.check is Check.HAPROXY
    probe = (release.spec or context.at.app.default_spec).probe
    checks = Fragment(
        pins={slot: release.pin_for(occupant)} if is_healthy else {},
        probes=() if context.slot(slot).served else (ProbeOrder(occupant.id, slot, probe),),
    )
    if context.server(slot).admin is not AdminState.MAINT or not (is_healthy or _answers(context, occupant)):
        return checks
    state = SetState(slot, AdminState.DRAIN, f"HAProxy shall check {release.reference}")
    return replace(checks, states=(state,), slots={slot: {"leave_since": None, "sessions_closed": False}})


def _answers(context: RuleContext, occupant: Container) -> bool:
    health = context.at.observed.health.get(occupant.id)
    return health is not None and health.healthy_for_s is not None


def _remember_staged(context: RuleContext, slot: SlotName, release: DesiredRelease) -> Fragment:
    failures = context.memory.failures
    others = {key: failure for key, failure in failures.items() if key != release.key}
    return Fragment(
        views={slot: SlotView(SlotPhase.STAGED)},
        memory={"failures": others} if release.key in failures else {},
        slots={slot: {"staged": True, "checking_since": None}},
    )


def _start_or_fail(context: RuleContext, slot: SlotName, release: DesiredRelease, problem: Unstaged) -> Fragment:
    known, occupant, now = context.slot(slot), context.occupants[slot], context.now
    begun = known.checking_since
    since = now if begun is None else begun
    if known.served:
        return merge(Fragment(slots={slot: {"checking_since": since}}), restart(context, slot))
    if begun is not None and occupant.state in {ContainerState.EXITED, ContainerState.DEAD}:
        detail = f" ({occupant.error})" if occupant.error else ""
        reason = f"container exited with code {occupant.exit_code}{detail} before it was staged"
        return _fail(context, slot, release, reason)
    deadline = since + context.knobs.healthy_deadline
    if begun is not None and now >= deadline:
        detail = f": {occupant.error}" if occupant.error else ""
        return _fail(context, slot, release, f"{problem.reason}, not running, within healthy_deadline{detail}")
    begins = Fragment(look_again_at=deadline, slots={slot: {"staged": False, "checking_since": since}})
    return merge(begins, restart(context, slot))


def _await(context: RuleContext, slot: SlotName, release: DesiredRelease, problem: Unstaged) -> Fragment:
    """Wait for a check; fail a release that is not healthy in time, but none that visitors have reached."""
    known, now, limit_s = context.slot(slot), context.now, context.knobs.healthy_deadline
    since = known.checking_since
    if since is None or problem.check is Check.IS_PROBED:
        since = now
    begun = Fragment(look_again_at=problem.look_again_at, slots={slot: {"checking_since": since}})
    checks = merge(_let_check(context, slot, release, problem), begun)
    deadline = since + limit_s
    if known.served:
        return merge(checks, Fragment(views={slot: SlotView(SlotPhase.CHECKING, problem.reason)}))
    if now >= deadline:
        reason = f"not healthy within healthy_deadline of {format_duration(limit_s)}: {problem.reason}"
        return _fail(context, slot, release, reason, replace(checks, states=()))
    view = SlotView(SlotPhase.CHECKING, f"{problem.reason}; at most {format_duration(deadline - now)}")
    return merge(checks, Fragment(views={slot: view}, look_again_at=deadline))


def _fail(
    context: RuleContext, slot: SlotName, release: DesiredRelease, reason: str, checks: Fragment = NOTHING
) -> Fragment:
    """Give up an attempt, with what its *checks* came to, and take the occupant out."""
    failed = with_failure(context.memory, release.key, Failure(reason=reason, at=context.now))
    noted = Fragment(
        pins={slot: None},
        memory={"failures": failed.failures},
        slots={slot: {"staged": False, "checking_since": None, "failed_key": release.key}},
    )
    failing = merge(checks, noted)
    leaving = merge(failing, drain(context.after(failing), slot, reason, 0.0))
    if context.insists_on(release):
        return leaving
    view = SlotView(SlotPhase.FAILED, f"{release.reference}: {reason}")
    return merge(leaving, Fragment(views={slot: view}))

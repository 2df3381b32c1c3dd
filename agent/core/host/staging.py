"""
How a release gets into a free slot and is checked there, unseen by new visitors.

Staged means all of: healthy in our own probe for ``min_healthy_time`` without a break, its pin in the map file
and the runtime map, in HAProxy's ``drain``, and known good there (``DRAIN`` and ``L7OK``).
"""

from agent.core.host.actions import CancelPull, Pull, Run, SetState
from agent.core.host.desired import Want
from agent.core.host.memory import Failure
from agent.core.host.observed import Container, ContainerState, JobKind
from agent.core.host.plan import ProbeOrder
from agent.core.host.plan_builder import BUSY_POLL_S, Draft
from agent.core.host.retiring import leave, revive
from agent.core.host.update_memory import with_failure
from agent.core.model.durations import format_duration
from agent.core.model.names import ImageReference, SlotName
from agent.core.model.states import AdminState, SlotPhase


def place(draft: Draft, want: Want) -> None:
    """Bring a release that has no container here into a free slot: pull it, then run it."""
    slot, busy = free_slot(draft)
    shown = slot or next((name for name in SlotName if name not in draft.tenants), None)
    failure = draft.memory.failures.get(want.key)
    if failure is not None and _blocks(draft, want, failure):
        reason = _failure_reason(draft, want, failure)
        _tell(draft, shown, SlotPhase.FAILED, f"{want.reference}: {reason}", failure.lines)
        return
    digest = draft.memory.resolved.get(want.key)
    if digest is None:
        _pull(draft, want, shown)
    elif slot is None:
        _tell(draft, shown, SlotPhase.WAITING, f"{want.reference}: {busy}")
        draft.look(draft.now + 1)
    elif draft.job(slot) is not None:
        draft.show(slot, SlotPhase.STARTING, f"starting {want.reference}")
        draft.look(draft.now + BUSY_POLL_S)
    else:
        tenancy = draft.memory.tenancy + 1
        draft.memory = draft.memory.but(tenancy=tenancy)
        draft.jobs.append(Run(slot, want, digest, tenancy))
        draft.show(slot, SlotPhase.STARTING, f"starting {want.reference}")
        draft.look(draft.now + BUSY_POLL_S)


def stage(draft: Draft, slot: SlotName, tenant: Container, want: Want) -> bool:
    """Move a tenant through its checks; return whether it is staged now, fit to be switched to."""
    known, job = draft.slot(slot), draft.job(slot)
    if job is not None:
        phase = SlotPhase.STOPPING if job.kind is JobKind.STOP else SlotPhase.STARTING
        draft.show(slot, phase, f"{job.kind} {want.reference}")
        draft.look(draft.now + BUSY_POLL_S)
        return False
    if not tenant.is_running:
        _start_or_fail(draft, slot, tenant, want)
        return False
    if known.checking_since is None:
        draft.remember(slot, checking_since=draft.now)
    if not known.served:
        probe = (want.spec or draft.at.app.default_spec).probe
        draft.probes.append(ProbeOrder(tenant.id, slot, probe))
    problem = None if known.served else _own_probe(draft, slot, tenant)
    if problem is None:
        problem = _in_haproxy(draft, slot, want, tenant)
    else:
        _check_ahead(draft, slot, want, tenant)
    if problem is None:
        draft.remember(slot, staged=True, checking_since=None)
        _forget_failure(draft, want)
        draft.show(slot, SlotPhase.STAGED, "")
        return True
    _check_deadline(draft, slot, tenant, want, problem)
    return False


def free_slot(draft: Draft) -> tuple[SlotName | None, str]:
    """
    Return a slot a new tenant may have, else None and what keeps the slots busy.

    One in which a container is being made comes first, though Docker does not list it yet: else the release would be
    run a second time in the other slot.
    """
    for slot in SlotName:
        job = draft.job(slot)
        if slot not in draft.tenants and job is not None and job.kind is JobKind.RUN:
            return slot, ""
    reasons: list[str] = []
    for slot in SlotName:
        server = draft.server(slot)
        job = draft.job(slot)
        if slot in draft.tenants or (job is not None and job.kind is not JobKind.RUN):
            view = draft.views.get(slot)
            detail = f" ({view.phase}: {view.reason})" if view and view.reason else ""
            reasons.append(f"slot {slot} is taken{detail}")
        elif draft.proxy.old_workers is None:
            reasons.append("HAProxy's master socket does not say whether old workers live")
        elif draft.proxy.old_workers:
            reasons.append(f"{draft.proxy.old_workers} old HAProxy worker may still send requests to slot {slot}")
        elif server.admin is not AdminState.MAINT or server.open_requests or server.queued:
            reasons.append(f"slot {slot} is being emptied")
            draft.look(draft.now + BUSY_POLL_S)
        else:
            return slot, ""
    return None, "waits for a free slot: " + "; ".join(reasons)


def cancel_unwanted_pulls(draft: Draft, wants: tuple[Want, ...]) -> None:
    """Give up pulls whose release nobody wants any more."""
    wanted = {want.reference for want in wants}
    for job in draft.at.observed.jobs:
        reference = ImageReference(job.key)
        if job.kind is JobKind.PULL and reference not in wanted:
            draft.jobs.append(CancelPull(reference))


def _pull(draft: Draft, want: Want, shown: SlotName | None) -> None:
    job, disk = draft.pull_of(want), draft.at.observed.disk
    if job is None and disk is not None and disk.is_low:
        seen = f"{disk.free_bytes / 1e9:.1f} GB free, {disk.reserve_bytes / 1e9:.1f} GB wanted"
        _tell(draft, shown, SlotPhase.WAITING, f"{want.reference}: waits for disk space before the pull: {seen}")
        draft.look(draft.now + 5)
        return
    if job is None:
        draft.jobs.append(Pull(want.reference))
    progress = f" {job.progress}" if job is not None and job.progress else ""
    _tell(draft, shown, SlotPhase.PULLING, f"pulling {want.reference}{progress}")
    draft.look(draft.now + 1)


def _tell(draft: Draft, slot: SlotName | None, phase: SlotPhase, reason: str, lines: tuple[str, ...] = ()) -> None:
    """Show it on the slot that will take the release, or for the host where there is none."""
    if slot is None:
        draft.notes.append(reason)
    else:
        draft.show(slot, phase, reason, lines)


def _start_or_fail(draft: Draft, slot: SlotName, tenant: Container, want: Want) -> None:
    known = draft.slot(slot)
    if known.served:
        if known.checking_since is None:
            draft.remember(slot, checking_since=draft.now)
        revive(draft, slot, tenant)
        return
    begun, exited = known.checking_since, tenant.state in {ContainerState.EXITED, ContainerState.DEAD}
    if begun is not None and exited:
        detail = f" ({tenant.error})" if tenant.error else ""
        reason = f"container exited with code {tenant.exit_code}{detail} before it was staged"
        _fail(draft, slot, tenant, want, reason)
    elif begun is not None and draft.now >= begun + draft.at.app.knobs.healthy_deadline:
        detail = f": {tenant.error}" if tenant.error else ""
        _fail(draft, slot, tenant, want, f"container is {tenant.state}, not running, within healthy_deadline{detail}")
    else:
        begun = draft.now if begun is None else begun
        draft.remember(slot, staged=False, checking_since=begun)
        revive(draft, slot, tenant)
        draft.look(begun + draft.at.app.knobs.healthy_deadline)


def _own_probe(draft: Draft, slot: SlotName, tenant: Container) -> str | None:
    """Say what keeps our own probe from calling it healthy long enough; None when nothing does."""
    health, known = draft.at.observed.health.get(tenant.id), draft.slot(slot)
    if health is None or not health.probed:
        if known.staged:
            return None
        draft.remember(slot, checking_since=draft.now)
        draft.look(draft.now + BUSY_POLL_S)
        return "no probe yet"
    if health.healthy_for_s is None:
        draft.look(draft.now + 1)
        return f"unhealthy: {health.detail}"
    needed = 0.0 if known.staged else draft.at.app.knobs.min_healthy_time
    left = needed - health.healthy_for_s
    if left <= 0:
        return None
    draft.look(draft.now + left)
    return f"healthy for {format_duration(health.healthy_for_s)} of {format_duration(needed)}"


def _check_ahead(draft: Draft, slot: SlotName, want: Want, tenant: Container) -> None:
    """Let HAProxy check during ``min_healthy_time`` what has answered once; without a pin nobody reaches it."""
    health = draft.at.observed.health.get(tenant.id)
    answers = health is not None and health.healthy_for_s is not None
    if answers and draft.server(slot).admin is AdminState.MAINT:
        draft.states.append(SetState(slot, AdminState.DRAIN, f"HAProxy shall check {want.reference}"))
        draft.remember(slot, leave_since=None, cut=False)


def _in_haproxy(draft: Draft, slot: SlotName, want: Want, tenant: Container) -> str | None:
    """Let HAProxy check it and visitors of its pin reach it; say what is missing, None when nothing is."""
    pin, server = want.pin_for(tenant), draft.server(slot)
    draft.pins[slot] = pin
    if server.admin is AdminState.MAINT:
        draft.states.append(SetState(slot, AdminState.DRAIN, f"HAProxy shall check {want.reference}"))
        draft.remember(slot, leave_since=None, cut=False)
        draft.look(draft.now + BUSY_POLL_S)
        return "HAProxy begins to check it"
    if draft.proxy.pins.get(slot) != pin or not draft.proxy.pins_saved:
        draft.look(draft.now)
        return "its pin is being set"
    if not server.is_known_good:
        draft.look(draft.now + BUSY_POLL_S)
        detail = f": {server.check_detail}" if server.check_detail else ""
        return f"HAProxy says {server.status}, {server.check}{detail}"
    return None


def _check_deadline(draft: Draft, slot: SlotName, tenant: Container, want: Want, problem: str) -> None:
    """Fail a release that is not healthy in time; one that visitors have reached only waits."""
    since = draft.slot(slot).checking_since
    deadline = draft.at.app.knobs.healthy_deadline
    if since is None or draft.slot(slot).served:
        draft.show(slot, SlotPhase.CHECKING, problem)
    elif draft.now >= since + deadline:
        reason = f"not healthy within healthy_deadline of {format_duration(deadline)}: {problem}"
        _fail(draft, slot, tenant, want, reason)
    else:
        left = format_duration(since + deadline - draft.now)
        draft.show(slot, SlotPhase.CHECKING, f"{problem}; at most {left}")
        draft.look(since + deadline)


def _fail(draft: Draft, slot: SlotName, tenant: Container, want: Want, reason: str) -> None:
    draft.memory = with_failure(draft.memory, want.key, Failure(reason=reason, at=draft.now))
    draft.remember(slot, staged=False, checking_since=None, failed_key=want.key)
    draft.pins.pop(slot, None)
    draft.states = [state for state in draft.states if not (isinstance(state, SetState) and state.slot is slot)]
    leave(draft, slot, tenant, reason, 0.0)
    if not draft.insists_on(want):
        draft.show(slot, SlotPhase.FAILED, f"{want.reference}: {reason}")


def _forget_failure(draft: Draft, want: Want) -> None:
    failures = {key: failure for key, failure in draft.memory.failures.items() if key != want.key}
    draft.memory = draft.memory.but(failures=failures)


def _blocks(draft: Draft, want: Want, failure: Failure) -> bool:
    """Whether a failed attempt is not (yet) made again."""
    if not failure.transient and not draft.insists_on(want):
        return True
    return draft.now < _retry_at(failure)


def _retry_at(failure: Failure) -> float:
    """Return when to try again: 2 s after the first failure, doubling to 60 s."""
    return failure.at + min(60.0, 2.0**failure.attempts)


def _failure_reason(draft: Draft, want: Want, failure: Failure) -> str:
    if not failure.transient and not draft.insists_on(want):
        return failure.reason
    draft.look(_retry_at(failure))
    return f"{failure.reason}; attempt {failure.attempts + 1} in {format_duration(_retry_at(failure) - draft.now)}"

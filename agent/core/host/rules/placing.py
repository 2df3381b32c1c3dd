"""Give a release a container on this host: pull its image, then run it in a free slot."""

from dataclasses import dataclass

from agent.core.host.actions import CancelPull, Pull, Run
from agent.core.host.desired import DesiredRelease
from agent.core.host.memory import Failure
from agent.core.host.observed import JobKind
from agent.core.host.plan import SlotView
from agent.core.host.plan_builder import BUSY_POLL_S, NOTHING, Fragment, merge
from agent.core.host.rules.context import RuleContext
from agent.core.host.update_memory import desired_releases
from agent.core.model.durations import format_duration
from agent.core.model.names import ImageReference, SlotName
from agent.core.model.states import AdminState, SlotPhase


@dataclass(frozen=True, slots=True)
class FreeSlot:
    """A slot that a new occupant may have, or why there is none."""

    slot: SlotName | None
    why_none: str = ""
    look_again_at: float = float("inf")
    """Monotonic seconds: when a slot that is being emptied may be free."""


def acquire_slot(context: RuleContext, release: DesiredRelease) -> Fragment:
    """Bring a release that has no container here into a free slot: pull it, then run it."""
    free = free_slot(context)
    return merge(Fragment(look_again_at=free.look_again_at), _acquire_slot(context, release, free))


def _acquire_slot(context: RuleContext, release: DesiredRelease, free: FreeSlot) -> Fragment:
    shown = free.slot or next((name for name in SlotName if name not in context.occupants), None)
    failure = context.memory.failures.get(release.key)
    if failure is not None and _blocks(context, release, failure):
        return _failed_before(context, release, failure, shown)
    digest = context.memory.resolved.get(release.key)
    if digest is None:
        return _pull(context, release, shown)
    if free.slot is None:
        return merge(
            _show(shown, SlotView(SlotPhase.WAITING, f"{release.reference}: {free.why_none}")),
            Fragment(look_again_at=context.now + 1),
        )
    starting = Fragment(
        views={free.slot: SlotView(SlotPhase.STARTING, f"starting {release.reference}")},
        look_again_at=context.now + BUSY_POLL_S,
    )
    if context.job(free.slot) is not None:
        return starting
    occupancy = context.memory.occupancy + 1
    return merge(
        starting, Fragment(jobs=(Run(free.slot, release, digest, occupancy),), memory={"occupancy": occupancy})
    )


def free_slot(context: RuleContext) -> FreeSlot:
    """
    Return a slot a new occupant may have, else what keeps the slots busy.

    One in which a container is being made comes first, though Docker does not list it yet: else the release would be
    run a second time in the other slot.
    """
    for slot in SlotName:
        job = context.job(slot)
        if slot not in context.occupants and job is not None and job.kind is JobKind.RUN:
            return FreeSlot(slot)
    reasons: list[str] = []
    look = float("inf")
    for slot in SlotName:
        reason = _taken(context, slot) or _in_use_by_proxy(context, slot)
        if reason is not None:
            reasons.append(reason)
        elif not _is_emptied(context, slot):
            reasons.append(f"slot {slot} is being emptied")
            look = context.now + BUSY_POLL_S
        else:
            return FreeSlot(slot, look_again_at=look)
    return FreeSlot(None, "waits for a free slot: " + "; ".join(reasons), look)


def cancel_unwanted_pulls(context: RuleContext) -> Fragment:
    """Give up pulls whose release nobody wants any more."""
    pulls = tuple(job for job in context.at.observed.jobs if job.kind is JobKind.PULL)
    if not pulls:
        return NOTHING
    wanted = {release.reference for release in desired_releases(context.at.desired)}
    references = (ImageReference(job.key) for job in pulls)
    return Fragment(jobs=tuple(CancelPull(reference) for reference in references if reference not in wanted))


def _taken(context: RuleContext, slot: SlotName) -> str | None:
    job = context.job(slot)
    if slot not in context.occupants and (job is None or job.kind is JobKind.RUN):
        return None
    view = context.planned.views.get(slot)
    detail = f" ({view.phase}: {view.reason})" if view and view.reason else ""
    return f"slot {slot} is taken{detail}"


def _in_use_by_proxy(context: RuleContext, slot: SlotName) -> str | None:
    match context.proxy.old_workers:
        case None:
            return "HAProxy's master socket does not say whether old workers live"
        case 0:
            return None
        case count:
            return f"{count} old HAProxy worker may still send requests to slot {slot}"


def _is_emptied(context: RuleContext, slot: SlotName) -> bool:
    server = context.server(slot)
    return server.admin is AdminState.MAINT and not server.open_requests and not server.queued


def _pull(context: RuleContext, release: DesiredRelease, shown: SlotName | None) -> Fragment:
    observed = context.at.observed
    pulls = (job for job in observed.jobs if job.kind is JobKind.PULL)
    job, disk = next((job for job in pulls if job.key == release.reference), None), observed.disk
    if job is None and disk is not None and disk.is_low:
        seen = f"{disk.free_bytes / 1e9:.1f} GB free, {disk.reserve_bytes / 1e9:.1f} GB wanted"
        reason = f"{release.reference}: waits for disk space before the pull: {seen}"
        waiting = _show(shown, SlotView(SlotPhase.WAITING, reason))
        return merge(waiting, Fragment(look_again_at=context.now + 5))
    progress = f" {job.progress}" if job is not None and job.progress else ""
    pulling = _show(shown, SlotView(SlotPhase.PULLING, f"pulling {release.reference}{progress}"))
    jobs = (Pull(release.reference),) if job is None else ()
    return merge(pulling, Fragment(jobs=jobs, look_again_at=context.now + 1))


def _show(slot: SlotName | None, view: SlotView) -> Fragment:
    """Show *view* on the slot that will take the release; without one, note its reason for the host."""
    return Fragment(notes=(view.reason,)) if slot is None else Fragment(views={slot: view})


def _blocks(context: RuleContext, release: DesiredRelease, failure: Failure) -> bool:
    """Whether a failed attempt is not (yet) made again."""
    return not _is_tried_again(context, release, failure) or context.now < _retry_at(failure)


def _is_tried_again(context: RuleContext, release: DesiredRelease, failure: Failure) -> bool:
    return failure.transient or context.insists_on(release)


def _retry_at(failure: Failure) -> float:
    """Return when to try again: 2 s after the first failure, doubling to 60 s."""
    return failure.at + min(60.0, 2.0**failure.attempts)


def _failed_before(context: RuleContext, release: DesiredRelease, failure: Failure, shown: SlotName | None) -> Fragment:
    """Show why an attempt failed, and when the next one is made, if any."""
    reason = failure.reason
    look = float("inf")
    if _is_tried_again(context, release, failure):
        look = _retry_at(failure)
        reason += f"; attempt {failure.attempts + 1} in {format_duration(look - context.now)}"
    view = SlotView(SlotPhase.FAILED, f"{release.reference}: {reason}", failure.lines)
    return merge(_show(shown, view), Fragment(look_again_at=look))

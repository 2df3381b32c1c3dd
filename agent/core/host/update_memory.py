"""Fold what was just seen into the memory: new occupants, ended jobs, states HAProxy holds."""

from agent.core.host.desired import Desired, DesiredRelease, Unchanged
from agent.core.host.memory import Failure, Memory, PulledImage, SlotMemory
from agent.core.host.observed import Container, JobKind, JobResult, Observed, Proxy, Unavailable
from agent.core.model.names import Digest, ImageReference, SlotName
from agent.core.model.states import AdminState

PRUNE_AGAIN_S = 3600.0
RESTARTS_FORGIVEN_AFTER_S = 60.0
"""A container that has run this long starts its back-off anew."""


def desired_releases(desired: Desired) -> tuple[DesiredRelease, ...]:
    """Return every desired release in *desired*, the served one first."""
    serve = desired.serve
    first = serve if isinstance(serve, DesiredRelease) else serve.newcomer if isinstance(serve, Unchanged) else None
    return tuple(release for release in (first, desired.hold, desired.taken_back) if release is not None)


def update_memory(memory: Memory, observed: Observed, desired: Desired, now: float) -> Memory:
    """
    Return the memory with this look folded in.

    Idempotent, apart from the job results, which each belong to one look only.
    """
    releases = desired_releases(desired)
    memory = _with_results(memory, observed, releases, now)
    occupants = {} if isinstance(observed.containers, Unavailable) else occupants_of(observed.containers)
    strangers = {slot for slot, occupant in occupants.items() if memory.slot(slot).container != occupant.id}
    if not isinstance(observed.containers, Unavailable):
        memory = _with_occupants(memory, occupants, now)
    if not isinstance(observed.proxy, Unavailable):
        memory = _with_states(memory, observed.proxy)
        for slot in strangers:
            if _has_served_unseen(observed.proxy, occupants, slot):
                memory = memory.with_slot(slot, served=True, staged=True)
    keys = {release.key for release in releases}
    return memory.replace(
        failures={key: failure for key, failure in memory.failures.items() if key in keys},
        resolved={key: digest for key, digest in memory.resolved.items() if key in keys},
    )


def freeze_timers(memory: Memory, now: float) -> Memory:
    """Begin the deadlines of checks anew: nobody could look, so nobody can say that a release is not healthy."""
    for slot in SlotName:
        if memory.slot(slot).checking_since is not None:
            memory = memory.with_slot(slot, checking_since=now)
    return memory


def occupants_of(containers: tuple[Container, ...]) -> dict[SlotName, Container]:
    """Return the container that counts in each slot: a running one first, then the newest."""
    ordered = sorted(containers, key=lambda container: (container.is_running, container.occupancy, container.id))
    return {container.slot: container for container in ordered}


def _with_occupants(memory: Memory, occupants: dict[SlotName, Container], now: float) -> Memory:
    for slot in SlotName:
        known, occupant = memory.slot(slot), occupants.get(slot)
        if occupant is None:
            blank = SlotMemory(admin=known.admin, checking_since=_attempt_begun(known))
            memory = memory.replace(slots={**memory.slots, slot: blank})
            continue
        if known.container != occupant.id:
            fresh = SlotMemory(container=occupant.id, admin=known.admin, checking_since=_attempt_begun(known))
            memory = memory.replace(slots={**memory.slots, slot: fresh})
        memory = _with_run(memory, occupant, now)
    highest = max((container.occupancy for container in occupants.values()), default=0)
    return memory.replace(occupancy=max(memory.occupancy, highest))


def _has_served_unseen(proxy: Proxy, occupants: dict[SlotName, Container], slot: SlotName) -> bool:
    """
    Tell a release that visitors hold from a staged one when the journal is gone.

    Drained beside a newer one that serves, it served before that one did: a release is staged into the other slot.
    """
    newer = occupants.get(slot.other)
    if newer is None or proxy.servers[slot.other].admin is not AdminState.READY:
        return False
    return proxy.servers[slot].admin is AdminState.DRAIN and occupants[slot].occupancy < newer.occupancy


def _attempt_begun(known: SlotMemory) -> float | None:
    """Keep the start of a check that was begun for a container not yet seen."""
    return known.checking_since if known.container is None else None


def _with_run(memory: Memory, occupant: Container, now: float) -> Memory:
    known = memory.slot(occupant.slot)
    if not occupant.is_running:
        return memory.with_slot(occupant.slot, running_since=None, started_at="")
    if known.running_since is None or known.started_at != occupant.started_at:
        return memory.with_slot(occupant.slot, running_since=now, started_at=occupant.started_at, restart_at=None)
    if known.restarts and now - known.running_since >= RESTARTS_FORGIVEN_AFTER_S:
        return memory.with_slot(occupant.slot, restarts=0)
    return memory


def _with_states(memory: Memory, proxy: Proxy) -> Memory:
    """Adopt the states HAProxy holds, unless another worker answers: then they are what was lost."""
    if memory.worker not in (None, proxy.worker):
        return memory
    for slot, server in proxy.servers.items():
        ready = server.admin is AdminState.READY
        known = memory.slot(slot)
        memory = memory.with_slot(
            slot,
            admin=server.admin,
            served=known.served or (ready and known.container is not None),
            staged=known.staged or (ready and known.container is not None),
            drain_since=None if ready else known.drain_since,
            leave_since=None if ready else known.leave_since,
            sessions_closed=known.sessions_closed and not ready,
        )
    return memory.replace(worker=proxy.worker, gate=proxy.gate)


def _with_results(memory: Memory, observed: Observed, releases: tuple[DesiredRelease, ...], now: float) -> Memory:
    for release in releases:
        digest = observed.images.get(release.reference)
        if digest is not None and release.key not in memory.resolved:
            memory = _resolved(memory, release.key, digest)
    for result in observed.results:
        memory = _with_result(memory, result, releases, now)
    return memory


def _with_result(memory: Memory, result: JobResult, releases: tuple[DesiredRelease, ...], now: float) -> Memory:
    match result.kind:
        case JobKind.RUN if not result.error:
            return memory.with_slot(SlotName(result.key), checking_since=now, container=None)
        case JobKind.PRUNE:
            return _with_pruned(memory, result, now)
        case JobKind.PULL if not result.error:
            return _with_pulled(memory, result)
        case JobKind.PULL:
            for release in releases:
                if release.reference == result.key:
                    memory = _failed(memory, release.key, result, now)
            return memory
        case JobKind.RUN:
            return _failed(memory, result.release_key, result, now)
        case JobKind.STOP if result.release_key in memory.failures and result.lines:
            failure = memory.failures[result.release_key].replace(lines=result.lines)
            return memory.replace(failures={**memory.failures, result.release_key: failure})
        case _:
            return memory


def _with_pulled(memory: Memory, result: JobResult) -> Memory:
    """Move an image of ours to the end of the list, or put a new one there."""
    digest = Digest(result.digest)
    if not result.is_new_image and all(image.digest != digest for image in memory.pulled):
        return memory
    others = tuple(image for image in memory.pulled if image.digest != digest)
    return memory.replace(pulled=(*others, PulledImage(reference=ImageReference(result.key), digest=digest)))


def _with_pruned(memory: Memory, result: JobResult, now: float) -> Memory:
    """Forget an image that was removed; try again later where Docker refused."""
    images = tuple(
        image.replace(retry_at=now + PRUNE_AGAIN_S) if image.digest == result.key and result.error else image
        for image in memory.pulled
        if result.error or image.digest != result.key
    )
    return memory.replace(pulled=images)


def _resolved(memory: Memory, key: str, digest: Digest) -> Memory:
    return memory.replace(resolved={**memory.resolved, key: digest})


def _failed(memory: Memory, key: str, result: JobResult, now: float) -> Memory:
    failure = Failure(reason=result.error, lines=result.lines, at=now, transient=result.transient)
    return with_failure(memory, key, failure)


def with_failure(memory: Memory, key: str, failure: Failure) -> Memory:
    """Note one more failed attempt of a desired release."""
    before = memory.failures.get(key)
    counted = failure.replace(attempts=(before.attempts if before else 0) + 1)
    return memory.replace(failures={**memory.failures, key: counted})

"""Which images go: of those Tidegate pulled, all but the last ``keep_releases``, and never one that is needed."""

from agent.core.host.actions import Prune
from agent.core.host.memory import PulledImage
from agent.core.host.plan_builder import Draft


def prune(draft: Draft) -> None:
    """Remove one image that has become too old; not while another job is under way, which may need it."""
    if draft.at.observed.jobs or draft.jobs:
        return
    for image in _too_old(draft):
        if image.retry_at is not None and draft.now < image.retry_at:
            draft.look(image.retry_at)
            continue
        draft.jobs.append(Prune(image.reference, image.digest))
        return


def _too_old(draft: Draft) -> tuple[PulledImage, ...]:
    keep = draft.at.app.knobs.keep_releases
    needed = {tenant.digest for tenant in draft.tenants.values()} | set(draft.memory.resolved.values())
    return tuple(image for image in draft.memory.pulled[:-keep] if image.digest not in needed)

"""Remove old images: of those Tidegate pulled, all but the last ``keep_releases``, and none that is needed."""

from agent.core.host.actions import Prune
from agent.core.host.memory import PulledImage
from agent.core.host.plan_builder import NOTHING, Fragment
from agent.core.host.rules.context import RuleContext


def prune(context: RuleContext) -> Fragment:
    """Remove one old image; none while a job is under way, as that may need it."""
    if context.at.observed.jobs or context.planned.jobs:
        return NOTHING
    refused = NOTHING
    for image in _too_old(context):
        if image.retry_at is None or context.now >= image.retry_at:
            return Fragment(jobs=(Prune(image.reference, image.digest),), look_again_at=refused.look_again_at)
        refused = Fragment(look_again_at=min(refused.look_again_at, image.retry_at))
    return refused


def _too_old(context: RuleContext) -> tuple[PulledImage, ...]:
    keep = context.knobs.keep_releases
    needed = {occupant.digest for occupant in context.occupants.values()} | set(context.memory.resolved.values())
    return tuple(image for image in context.memory.pulled[:-keep] if image.digest not in needed)

"""Which release ``rollback`` means: the one before, or the one that a word of its history names. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from agent.adapters.consul.history import Rollout
from agent.core.model.errors import PermanentError
from agent.core.model.names import ImageReference, parse_reference
from agent.core.model.record import Phase, RecordedRelease
from agent.core.model.report import NodeReport
from agent.core.model.spec import RunSpec
from agent.core.rollout.decision import Decision

_RELEASE = re.compile(r"[0-9a-f]{12}")
_GENERATION = re.compile(r"#?(\d{1,9})")


@dataclass(frozen=True, slots=True)
class ReleaseRef:
    """A release of before."""

    image: ImageReference
    """With its digest, where that is recorded."""
    spec: RunSpec | None = None
    """None: not recorded any more, or it was the app's default."""


def find_release(
    word: str, record: Decision | None, history: Iterable[Rollout], reports: Iterable[NodeReport]
) -> ReleaseRef:
    """
    Find a release by ``#12`` (what rollout 12 left serving), a release id, or an image reference.

    Raises:
        PermanentError: nothing recorded goes by that name, or what does never served.
    """
    recorded = [each for each in (record.source, record.target) if each] if record else []
    if (found := _GENERATION.fullmatch(word)) is not None and not _RELEASE.fullmatch(word):
        return _of_generation(int(found[1]), history, recorded)
    if _RELEASE.fullmatch(word):
        return _of_release(word, recorded, reports)
    return _of_image(word, history, recorded)


def of_recorded(release: RecordedRelease) -> ReleaseRef:
    """Return a release the record holds whole."""
    return ReleaseRef(release.image, release.spec)


def _of_generation(generation: int, history: Iterable[Rollout], recorded: list[RecordedRelease]) -> ReleaseRef:
    rollout = next((each for each in history if each.generation == generation), None)
    if rollout is None:
        raise PermanentError(f"the history has no rollout {generation}: `tidegate history` lists them")
    image = rollout.last.target or rollout.last.active
    if rollout.last.phase is not Phase.SUCCESSFUL or not image:
        how = rollout.last.phase or "is unreadable"
        raise PermanentError(
            f"rollout {generation} ended {how}: `tidegate deploy {rollout.image}` if you want it again"
        )
    return _with_spec(image, recorded)


def _of_release(release: str, recorded: list[RecordedRelease], reports: Iterable[NodeReport]) -> ReleaseRef:
    for each in recorded:
        if each.release == release:
            return of_recorded(each)
    for report in reports:
        for slot in report.slots.values():
            if slot.release == release and slot.image:
                image = slot.image if "@" in slot.image else f"{slot.image}@{slot.digest}"
                return ReleaseRef(parse_reference(image.removesuffix("@")))
    raise PermanentError(
        f"no host and no record holds release {release} any more: name its image or rollout (`tidegate history`)"
    )


def _of_image(word: str, history: Iterable[Rollout], recorded: list[RecordedRelease]) -> ReleaseRef:
    images = [each.last.target for each in history if each.last.phase is Phase.SUCCESSFUL and each.last.target]
    images += [each.image for each in recorded]
    match = [image for image in reversed(images) if image == word or image.partition("@")[0] == word]
    if not match:
        raise PermanentError(
            f"the history has no successful rollout of {word!r}: `tidegate history` lists them, "
            "`tidegate deploy` takes any image"
        )
    return _with_spec(match[0], recorded)


def _with_spec(image: str, recorded: list[RecordedRelease]) -> ReleaseRef:
    same = next((each for each in recorded if each.image == image), None)
    return of_recorded(same) if same else ReleaseRef(parse_reference(image))

"""Which release a rollout starts from: the one that all live hosts serve."""

from collections import Counter
from collections.abc import Iterable

from agent.core.names import ImageReference, NodeName, Pin, ReleaseId
from agent.core.record import RecordedRelease
from agent.core.report import SlotReport
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet
from agent.core.rollout.turn import in_words


class UnclearSourceError(Exception):
    """There is no one release to go back to; the text says what to do."""


def source_of(record: Decision, fleet: Fleet) -> RecordedRelease | None:
    """
    Return the release the fleet serves; None before the first deploy.

    What the record names already (the release of the rollout before) is taken whole, spec and pin included. A release
    set by hand has the app's default spec.

    Raises:
        UnclearSourceError: hosts serve different releases, or none serves what ``active/image`` asks for.
    """
    served = {host.node: slot for host in fleet.present if (slot := host.serving) is not None}
    if not served:
        if record.source is not None or fleet.active is None or (record.request and record.request.forces_source):
            return record.source
        raise UnclearSourceError(f"no host serves yet, though active/image is {fleet.active}")
    counts = Counter(slot.release for slot in served.values())
    if len(counts) > 1 and not (record.request and record.request.forces_source):
        raise UnclearSourceError(f"hosts serve different releases: {_differences(served)}")
    release = min(counts, key=lambda name: (-counts[name], name))
    if record.source is not None and record.source.release == release:
        return record.source
    return _by_hand(slot for slot in served.values() if slot.release == release)


def _by_hand(slots: Iterable[SlotReport]) -> RecordedRelease:
    slot = min(slots, key=lambda shown: (shown.image, shown.pin))
    image = slot.image if "@" in slot.image else f"{slot.image}@{slot.digest}"
    return RecordedRelease(image=ImageReference(image), spec=None, release=ReleaseId(slot.release), pin=Pin(slot.pin))


def _differences(served: dict[NodeName, SlotReport]) -> str:
    return in_words(tuple(f"{node} serves {slot.image} ({slot.release})" for node, slot in sorted(served.items())))

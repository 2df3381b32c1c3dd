"""Which release a rollout starts from: the one that all live hosts serve."""

from collections import Counter
from collections.abc import Iterable

from pydantic import ValidationError

from agent.core.model.names import ImageReference, NodeName, Pin, ReleaseId, printable
from agent.core.model.record import RecordedRelease
from agent.core.model.report import SlotReport
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet
from agent.core.rollout.transition import join_reasons


class UnclearSourceError(Exception):
    """There is no one release to go back to; the text says what to do."""


def source_of(record: Decision, fleet: Fleet) -> RecordedRelease | None:
    """
    Return the release the fleet serves; None before the first deploy.

    What the record names already (the release of the rollout before) is taken whole, spec and pin included. A release
    set by hand has the app's default spec.

    Raises:
        UnclearSourceError: hosts serve different releases, or something else than ``active/image`` asks for.
    """
    served = {host.node: slot for host in fleet.present if (slot := host.serving) is not None}
    is_forced = record.request is not None and record.request.forces_source
    if not served:
        if record.source is not None or fleet.active is None or is_forced:
            return record.source
        raise UnclearSourceError(
            f"no host serves, though active/image is {fleet.active}; "
            "--force-source deploys without a release to roll back to",
        )
    counts = Counter(slot.release for slot in served.values())
    if len(counts) > 1 and not is_forced:
        differences = _differences(served)
        raise UnclearSourceError(
            f"hosts serve different releases ({differences}); "
            "use --force-source to roll back to the most common release"
        )
    release = min(counts, key=lambda name: (-counts[name], name))
    if record.source is not None and record.source.release == release:
        return record.source
    slots = [slot for slot in served.values() if slot.release == release]
    if fleet.active is not None and not is_forced and all(slot.image != fleet.active for slot in slots):
        raise UnclearSourceError(
            f"active/image is {fleet.active}, which no host serves yet: "
            "a change by hand is under way; --force-source does not wait for it"
        )
    return _by_hand(slots)


def _by_hand(slots: Iterable[SlotReport]) -> RecordedRelease:
    slot = min(slots, key=lambda shown: (shown.image, shown.pin))
    image = slot.image if "@" in slot.image else f"{slot.image}@{slot.digest}"
    try:
        return RecordedRelease(
            image=ImageReference(image), spec=None, release=ReleaseId(slot.release), pin=Pin(slot.pin)
        )
    except ValidationError as exc:
        raise UnclearSourceError(
            f"hosts report that they serve {printable(slot.image)}, which names no release"
        ) from exc


def _differences(served: dict[NodeName, SlotReport]) -> str:
    return join_reasons(tuple(f"{node} serves {slot.image} ({slot.release})" for node, slot in sorted(served.items())))

"""How far a pull is, and what its failure means: the registry refuses, or it is away."""

import time
from collections.abc import Callable, Mapping

from agent.adapters.registry.reference import repository
from agent.core.model.durations import format_duration
from agent.core.model.errors import ImagePullError, ImageRefusedError
from agent.core.model.names import ImageReference

_SHOWN_STALL_S = 5.0
# What registries and the daemon say when asking again will not help.
_REFUSED = (
    "manifest unknown",
    "name unknown",
    "not found",
    "no basic auth credentials",
    "unauthorized",
    "access denied",
    "denied:",
    "authentication required",
    "authorization failed",
    "does not exist",
    "no matching manifest",
    "does not match the specified platform",
    "invalid reference",
    "403 forbidden",
    "401 unauthorized",
)


class PullProgress:
    """
    Progress of one pull: the adapter feeds it, anyone may ask it.

    Attributes:
        percent: of the bytes announced so far; None before the first; may fall when layers are announced.
        last_change: clock reading of the last progress.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.percent: int | None = None
        self.last_change = clock()
        self.digest = ""
        self.is_finished = False
        self._clock = clock
        self._current: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._seen: tuple[object, ...] = ()

    def feed(self, event: Mapping[str, object]) -> bool:
        """Take in one line of the daemon's stream; say whether it is progress: repetition and 'Retrying' are not."""
        status, layer = str(event.get("status", "")), str(event.get("id", ""))
        if status.startswith("Digest: "):
            self.digest = status.removeprefix("Digest: ").strip()
        elif status.startswith("Status: "):
            self.is_finished = True
        detail = event.get("progressDetail")
        current = detail.get("current") if isinstance(detail, dict) else None
        if status in ("Pulling fs layer", "Waiting"):
            self._current.setdefault(layer, 0)
        elif status == "Downloading" and isinstance(detail, dict) and isinstance(detail.get("total"), int):
            self._current[layer], self._total[layer] = int(current or 0), max(detail["total"], 1)
        elif status in ("Download complete", "Pull complete") and layer in self._current:
            self._current[layer] = self._total.setdefault(layer, 1)
        self._count()
        seen = (status, layer, current)
        is_progress = seen != self._seen and not status.startswith("Retrying")
        self._seen = seen
        if is_progress:
            self.last_change = self._clock()
        return is_progress

    def text(self) -> str:
        """Say it for people: ``62 %``, ``62 %, stalled 40s``; empty before anything is known."""
        stalled = self._clock() - self.last_change
        parts = [] if self.percent is None else [f"{self.percent} %"]
        if stalled >= _SHOWN_STALL_S:
            parts.append(f"stalled {format_duration(round(stalled))}")
        return ", ".join(parts)

    def _count(self) -> None:
        if not self._total:
            return
        # A layer that waits its turn has no size yet: count it as one of average size.
        known = sum(self._total.values())
        unknown = len(self._current.keys() - self._total.keys()) * known // len(self._total)
        self.percent = 100 * sum(self._current.values()) // (known + unknown)


def stalled(reference: ImageReference, progress: PullProgress, stall_s: float) -> ImagePullError:
    """Return the error of a pull of *reference* that made no progress for *stall_s* seconds."""
    at = "before the first byte" if progress.percent is None else f"at {progress.percent} %"
    return ImagePullError(f"pull of {reference} stalled for {format_duration(stall_s)} {at}")


def pull_error(reference: ImageReference, text: str) -> ImagePullError | ImageRefusedError:
    """Return the error for a failed pull by the daemon's *words*; what is not known to be final may pass."""
    # The words quote the image's name and URL, which may contain any of ours.
    bare = text.replace(reference, "").replace(repository(reference).path, "").lower()
    refused = any(phrase in bare for phrase in _REFUSED) and "toomanyrequests" not in bare
    return (ImageRefusedError if refused else ImagePullError)(f"pull of {reference}: {text.strip()}")

"""Text for people: images short enough for a table, foreign text without control characters, times of the day."""

import re
from datetime import UTC, datetime

from agent.core.model.durations import format_duration
from agent.core.model.report import SlotReport
from agent.core.rollout.decision import Decision

_PINNED = re.compile(r"[^\s\"']+@sha256:[0-9a-f]{64}")


def clean(text: str) -> str:
    """Return foreign text (reasons, log lines) with nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def short(image: str) -> str:
    """Return what tells an image from another in a table: ``shop:b`` of ``registry/team/shop:b@sha256:...``."""
    name, _, digest = image.partition("@")
    last = name.rpartition("/")[2]
    return last if ":" in last or not digest else f"{last}@{digest[7:15]}"


def brief(text: str) -> str:
    """Return *text* with the images in it that are pinned to a digest made short."""
    return _PINNED.sub(lambda found: short(found[0]), text)


def slot_text(slot: SlotReport | None) -> str:
    """Return what a slot does in a table: phase and image."""
    if slot is None:
        return "?"
    down = " (down)" if slot.state == "ready" and not slot.is_up and slot.release else ""
    return f"{slot.phase} {short(slot.image)}{down}".strip()


def asked_for(record: Decision) -> str:
    """Return the image a rollout is about, as its author wrote it."""
    if record.request is not None:
        return str(record.request.image)
    return str(record.target.image) if record.target else "adopted"


def clock(at: float) -> str:
    """Return a time of the day, local."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S")


def left(deadline: float | None, now: float) -> str:
    """Return how much time is left."""
    if deadline is None:
        return ""
    return f"{format_duration(deadline - now)} left" if deadline > now else "its deadline is over"


def ago(seconds: float) -> str:
    """Return how long ago something was."""
    return f"{format_duration(max(0.0, seconds))} ago"

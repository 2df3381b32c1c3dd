"""A fleet as JSON for programs. No spec is in it: its environment is secret."""

from typing import Any

from agent.cli.views.fleet import FleetView, Row
from agent.core.model.keys import Present, Reading
from agent.core.model.record import RecordedRelease
from agent.core.rollout.decision import Decision

DOCUMENT_VERSION = 1


def document(view: FleetView) -> dict[str, Any]:
    """Return everything ``tidegate status`` shows."""
    snapshot = view.snapshot
    return {
        "v": DOCUMENT_VERSION,
        "app": snapshot.app,
        "at": snapshot.at,
        "active": _value(snapshot.reading.keys.active),
        "stage": _value(snapshot.reading.keys.stage),
        "coordinator": {
            "holder": snapshot.lock.holder if snapshot.lock else None,
            "epoch": snapshot.lock.epoch if snapshot.lock else None,
            "able": sorted(snapshot.reading.coordinators),
            "words": view.coordinator,
        },
        "rollout": rollout(view.record) if view.record else None,
        "waits": [{"node": wait.node, "reason": wait.reason, "until": wait.until} for wait in view.waits],
        "progress": {bar.name: {"done": bar.done, "total": bar.total} for bar in view.bars},
        "foreign_edits": list(view.edits),
        "notes": list(snapshot.notes),
        "hosts": [_host(row) for row in view.rows],
    }


def rollout(record: Decision) -> dict[str, Any]:
    """Return a record without the specs."""
    kept = record.model_dump(mode="json", exclude={"request", "source", "target", "threshold"})
    return kept | {
        "image": record.request.image if record.request else None,
        "source": _release(record.source),
        "target": _release(record.target),
    }


def _release(release: RecordedRelease | None) -> dict[str, str] | None:
    return None if release is None else {"image": release.image, "release": release.release, "pin": release.pin}


def _value(reading: Reading) -> str | None:
    return reading.value if isinstance(reading, Present) else None


def _host(row: Row) -> dict[str, Any]:
    return {
        "node": row.node,
        "zone": row.zone or None,
        "phase": row.phase,
        "is_well": row.is_well,
        "open_requests": row.open_requests,
        "idle_s": row.idle_s,
        "reason": row.reason,
        "lines": list(row.lines),
        "slots": {name: slot.model_dump(mode="json", exclude={"lines"}) for name, slot in sorted(row.slots.items())},
    }

"""``GET /v1/coordination``: who leads, which rollout is in progress, and what it waits for."""

from collections.abc import Sequence

from agent.runtime.fleet.coordinator import CoordinatorView


def coordination_document(views: Sequence[CoordinatorView]) -> dict[str, object]:
    """Return the answer as a JSON object."""
    return {"apps": [_app(view) for view in views]}


def _app(view: CoordinatorView) -> dict[str, object]:
    record = view.record
    return {
        "app": view.app,
        "is_leading": view.is_leading,
        "epoch": view.epoch,
        "generation": record.generation if record else None,
        "phase": record.phase if record else None,
        "waits": [{"node": wait.node, "reason": wait.reason, "until": wait.until} for wait in view.waits],
        "problem": view.problem,
    }

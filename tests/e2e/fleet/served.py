"""A release that a fleet serves."""

from agent.core.model.record import RecordedRelease

DIGEST = "sha256:" + "a" * 64

SERVED = RecordedRelease.model_validate(
    {"image": f"registry.example/shop:a@{DIGEST}", "release": "a" * 12, "pin": "b" * 12}
)

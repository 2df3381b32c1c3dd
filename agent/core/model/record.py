"""
The rollout record: one attempt to move the fleet from source to target, as written in ``<app>/rollout``.

Nodes only read it. Written by Tidegate, so readers ignore unknown fields of the same ``v`` and hold at a higher one.
"""

import hashlib
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from agent.core.model.documents import TolerantDocument
from agent.core.model.errors import PermanentError
from agent.core.model.field_problems import field_problems
from agent.core.model.names import ImageReference, NodeName, Pin, ReleaseId, parse_reference
from agent.core.model.numbers import Count
from agent.core.model.spec import RunSpec

RECORD_VERSION = 1


class Phase(StrEnum):
    """Phases of a rollout (design.md, section 5)."""

    PENDING = "pending"
    STAGING = "staging"
    READY = "ready"
    CANARY = "canary"
    AWAITING_PROMOTION = "awaiting_promotion"
    SWITCHING = "switching"
    BAKING = "baking"
    RETIRING = "retiring"
    SUCCESSFUL = "successful"
    ABORTING = "aborting"
    ABORTED = "aborted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"

    @property
    def is_terminal(self) -> bool:
        """Whether the rollout has ended."""
        return self in _TERMINAL


_WITHOUT_TARGET = frozenset({Phase.PENDING, Phase.ABORTING, Phase.ABORTED, Phase.SUCCESSFUL})
"""A successful record without a target comes from ``tidegate adopt``: the keys by hand say what is served."""
_TERMINAL = frozenset({Phase.SUCCESSFUL, Phase.ABORTED, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED})


class RecordedRelease(TolerantDocument):
    """A release as the coordinator resolved it: everything a node needs to run and pin it."""

    image: Annotated[ImageReference, AfterValidator(parse_reference)]
    spec: RunSpec | None = None
    """None: the app's default spec, for a release that was set by hand."""
    release: Annotated[ReleaseId, Field(pattern=r"^[0-9a-f]{12}$")]
    pin: Annotated[Pin, Field(pattern=r"^[0-9a-f]{12}$")]


class RolloutRecord(TolerantDocument):
    """The part of the decision record a node acts on."""

    v: int = RECORD_VERSION
    generation: Annotated[Count, Field(ge=1)]
    seq: Count
    phase: Phase
    source: RecordedRelease | None = None
    target: RecordedRelease | None = None
    threshold: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = "0" * 64
    """Nodes whose :func:`node_hash` is not above it are in the step."""

    @property
    def version(self) -> tuple[int, int]:
        """(generation, seq): a node never acts on a lower one than it has seen."""
        return self.generation, self.seq

    @property
    def final(self) -> RecordedRelease | None:
        """The release that stands while nothing is in progress; None in progress and for ``rollback_failed``."""
        match self.phase:
            case Phase.SUCCESSFUL:
                return self.target
            case Phase.PENDING | Phase.ABORTED | Phase.ROLLED_BACK:
                return self.source
            case _:
                return None

    def release_for_image(self, image: str) -> RecordedRelease | None:
        """
        Return the release that this finished rollout associates with *image*.

        After ``rollback_failed``, source and target both qualify.
        """
        both = (self.source, self.target) if self.phase is Phase.ROLLBACK_FAILED else (self.final,)
        return next((release for release in both if release is not None and release.image == image), None)

    @property
    def leaves_stage_behind(self) -> bool:
        """Whether it was a first deploy that was aborted: no mirror was written back, what is staged was taken back."""
        return self.phase is Phase.ABORTED and self.source is None

    def includes(self, node: NodeName) -> bool:
        """Whether *node* is among the step's hosts."""
        return node_hash(self.generation, node) <= self.threshold


def node_hash(generation: int, node: NodeName) -> str:
    """Return the node's place in this rollout's order: 64 hex digits of sha256 over generation and node."""
    return hashlib.sha256(f"{generation}.{node}".encode()).hexdigest()


@lru_cache(maxsize=32)
def read_record(text: str) -> RolloutRecord:
    """
    Read a rollout record; the same text again costs nothing, as every look at a host reads it several times.

    Raises:
        PermanentError: no JSON object, a newer ``v``, or a field that does not fit, naming the field.
    """
    try:
        head: Any = _Head.model_validate_json(text)
    except ValidationError as exc:
        raise PermanentError(f"rollout record is unreadable: {field_problems(exc)[0].text()}") from exc
    if head.v > RECORD_VERSION:
        raise PermanentError(f"rollout record has version {head.v}, this agent reads up to {RECORD_VERSION}")
    try:
        record = RolloutRecord.model_validate_json(text)
    except ValidationError as exc:
        raise PermanentError(f"rollout record is unreadable: {field_problems(exc)[0].text()}") from exc
    if record.target is None and record.phase not in _WITHOUT_TARGET:
        raise PermanentError(f"rollout record is unreadable: target is missing in phase {record.phase}")
    return record


class _Head(TolerantDocument):
    v: int

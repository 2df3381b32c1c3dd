"""
The decision record as the coordinator and the commands see it: ``<app>/rollout``, whole. `advance` decides on it.

Nodes read the part in :mod:`agent.core.model.record`. The record is small at any size of the fleet: a step is one
threshold. Times are Unix seconds of the coordinator that stamped them; nodes never compare them with their own clock.
"""

import json
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError

from agent.core.model.documents import TolerantDocument
from agent.core.model.errors import PermanentError
from agent.core.model.field_problems import field_problems
from agent.core.model.names import ImageReference, parse_reference
from agent.core.model.numbers import Count, UnixTime
from agent.core.model.record import Phase, RecordedRelease, RolloutRecord, read_record
from agent.core.model.spec import RunSpec
from agent.core.rollout.strategy import Strategy

BEFORE_COMMIT = frozenset({Phase.PENDING, Phase.STAGING, Phase.READY})
AFTER_COMMIT = frozenset({Phase.CANARY, Phase.AWAITING_PROMOTION, Phase.SWITCHING, Phase.BAKING})
"""From the commit to the end of the bake: a way back is one command per host."""
GOING_BACK = frozenset({Phase.ABORTING, Phase.ROLLING_BACK})
REASON_MAX_CHARS = 500


class Request(TolerantDocument):
    """What ``deploy`` asked for, before anything was resolved."""

    image: Annotated[ImageReference, AfterValidator(parse_reference)]
    """As the operator wrote it; its tag is resolved once."""
    spec: RunSpec = RunSpec()
    forces_source: bool = False
    """Go on though hosts serve different releases; the source is then the one most of them serve."""


class Flags(TolerantDocument):
    """What commands set; the coordinator acts on them."""

    paused: bool = False
    promoted: bool = False
    aborted: bool = False
    """An operator wants to go back: by an abort before the commit, by a rollback after it."""
    note: Annotated[str, Field(max_length=REASON_MAX_CHARS)] = ""
    """Who set the last of them, and why."""


class Decision(RolloutRecord):
    """One rollout, whole."""

    epoch: Count = 0
    """Of the coordinator that wrote it; 0: a command did, before any."""
    request: Request | None = None
    """None in a record that ``adopt`` wrote."""
    strategy: Strategy = Strategy()
    flags: Flags = Flags()
    step: Count = 0
    """Index of the step under way."""
    since: UnixTime | None = None
    """When the phase began; None until a coordinator has seen it."""
    deadline: UnixTime | None = None
    """When the phase must have ended."""
    paused_at: UnixTime | None = None
    """When a coordinator saw the pause; deadlines are shifted by its length on ``resume``."""
    author: str = ""
    reason: str = ""
    """Why it was begun, in the operator's words."""
    why: str = ""
    """Why the present phase was entered."""
    created_at: UnixTime = 0.0

    @property
    def is_before_commit(self) -> bool:
        """Whether no visitor can have seen anything of it."""
        return self.phase in BEFORE_COMMIT

    @property
    def is_noop(self) -> bool:
        """Whether it ended because its target is what served already."""
        both = self.source is not None and self.target is not None
        return self.phase is Phase.ABORTED and both and self.source.release == self.target.release  # type: ignore[union-attr]

    @property
    def is_last_step(self) -> bool:
        """Whether the step under way takes in every host."""
        return self.step >= len(self.strategy.all_steps) - 1

    def replace(self, **changes: object) -> Self:
        """Return a copy with *changes*, checked."""
        return type(self).model_validate({**dict(self), **changes})


def read_decision(text: str) -> Decision:
    """
    Read a whole record.

    Raises:
        PermanentError: no JSON object, a newer ``v``, or a field that does not fit, naming the field.
    """
    read_record(text)
    try:
        return Decision.model_validate_json(text)
    except ValidationError as exc:
        raise PermanentError(f"rollout record is unreadable: {field_problems(exc)[0].text()}") from exc


def write_decision(record: Decision) -> str:
    """
    Write a record as JSON, secrets of its specs included: nodes need them, and Consul's ACLs guard the key.

    Raises:
        PermanentError: nobody could read what would be written, naming the field.
    """
    data = record.model_dump(mode="json", exclude={"source", "target"})
    if record.request is not None:
        data["request"]["spec"] = record.request.spec.revealed()
    for name, release in (("source", record.source), ("target", record.target)):
        data[name] = None if release is None else release_document(release)
    text = json.dumps(data, separators=(",", ":"), sort_keys=True)
    read_decision(text)
    return text


def release_document(release: RecordedRelease) -> dict[str, object]:
    """Return a release as the record holds it."""
    document = release.model_dump(mode="json", exclude={"spec"})
    return document | {"spec": None if release.spec is None else release.spec.revealed()}

"""What one step of a rollout, or one command, writes to Consul: a guarded transaction with an audit entry (S13)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from agent.core.model import keys
from agent.core.model.names import AppName, ImageReference, NodeName
from agent.core.model.record import RECORD_VERSION, Phase, RecordedRelease
from agent.core.rollout.decision import REASON_MAX_CHARS, Decision, write_decision

LINES_MAX = 20


class Guard(StrEnum):
    """Under which condition a write happens."""

    NONE = "none"
    CAS = "cas"
    """The key's ModifyIndex is ``index``; 0: there is no such key."""
    CHECK = "check"
    """Nothing is written: only the key's ModifyIndex must be ``index`` (0: absent)."""


@dataclass(frozen=True, slots=True)
class Write:
    """One key of a transaction."""

    key: str
    value: bytes = field(default=b"", repr=False)
    """May hold secrets of a spec."""
    guard: Guard = Guard.NONE
    index: int = 0


@dataclass(frozen=True, slots=True)
class Mirror:
    """What ``active`` or ``stage`` become in the same transaction."""

    image: ImageReference
    spec: str | None = field(repr=False)
    """JSON, secrets included; None where it is the app's default."""
    keeps_spec: bool = False
    """Only the image is written: an operator may not write a spec."""


@dataclass(frozen=True, slots=True)
class Change:
    """The next record, and what is written with it."""

    record: Decision
    what: str
    """Past tense, for the audit entry: 'staging began'."""
    was: Phase | None = None
    """Phase before; None where there was no record."""
    why: str = ""
    """For the audit entry, where the phase stays; else the record says why."""
    active: Mirror | None = None
    stage: Mirror | None = None
    members: tuple[NodeName, ...] | None = None
    lines: tuple[str, ...] = ()
    """Last log lines of a container that failed."""
    times: Mapping[NodeName, float] = field(default_factory=dict)
    """When each host had done what this change waited for: Unix seconds of the host's own clock."""
    checks_active: bool = False
    """Only if ``active/image`` is as it was read."""


@dataclass(frozen=True, slots=True)
class Indexes:
    """ModifyIndexes of what was read; 0 for a key that is absent."""

    record: int
    active: int = 0


def mirror_of(release: RecordedRelease) -> Mirror:
    """Return what a mirror of *release* holds."""
    spec = None if release.spec is None else json.dumps(release.spec.revealed(), sort_keys=True)
    return Mirror(release.image, spec)


def signed(change: Change, epoch: int) -> Change:
    """Return *change* as written by the holder of *epoch*."""
    return replace(change, record=change.record.replace(epoch=epoch))


def writes_of(app: AppName, change: Change, indexes: Indexes, *, by: str, now: float) -> tuple[Write, ...]:
    """Return the keys of the transaction, the record and its audit entry first."""
    record = change.record
    entry = json.dumps(audit_of(change, by=by, now=now)).encode()
    writes = [
        Write(keys.rollout(app), write_decision(record).encode(), Guard.CAS, indexes.record),
        Write(keys.history(app, record.generation, record.seq), entry, Guard.CAS, 0),
    ]
    if change.checks_active:
        writes.append(Write(keys.active_image(app), b"", Guard.CHECK, indexes.active))
    for mirror, image_key, spec_key in (
        (change.active, keys.active_image(app), keys.active_spec(app)),
        (change.stage, keys.stage_image(app), keys.stage_spec(app)),
    ):
        if mirror is not None:
            writes.append(Write(image_key, mirror.image.encode()))
            if not mirror.keeps_spec:
                writes.append(Write(spec_key, (mirror.spec or "{}").encode()))
    if change.members is not None:
        writes.append(Write(keys.members(app, record.generation), members_document(change.members)))
    return tuple(writes)


def audit_of(change: Change, *, by: str, now: float) -> dict[str, object]:
    """Return the audit entry: who, what, why, from, to, when (ISO 8601, UTC, milliseconds)."""
    record = change.record
    entry: dict[str, object] = {
        "v": RECORD_VERSION,
        "at": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
        "by": by,
        "what": change.what,
        "why": (change.why or record.why)[:REASON_MAX_CHARS],
        "from": change.was,
        "to": record.phase,
        "epoch": record.epoch,
    }
    for name, release in (("source", record.source), ("target", record.target)):
        if release is not None:
            entry[name] = release.image
    if record.request is not None:
        entry |= {"image": record.request.image, "author": record.author, "reason": record.reason}
    elif change.stage is not None:  # `adopt` accepts what is active
        entry |= {"active": change.stage.image, "author": record.author, "reason": record.reason}
    if change.times:
        entry["hosts"] = dict(sorted(change.times.items()))
    if change.lines:
        entry["lines"] = list(change.lines[-LINES_MAX:])
    return entry


def members_document(members: Sequence[NodeName]) -> bytes:
    """Write the list of a barrier's hosts."""
    return json.dumps({"v": RECORD_VERSION, "members": list(members)}, separators=(",", ":")).encode()

"""A model of what Consul holds for one app: two image keys, the rollout record, ModifyIndex, and being away."""

import json
from dataclasses import dataclass, field

from agent.core.model.keys import ABSENT, Forbidden, KeySnapshot, Known, Outcome, Present, Reading, Unknown
from agent.core.model.names import ImageReference
from agent.core.model.record import Phase, RecordedRelease, RolloutRecord
from agent.core.model.release import pin_of
from agent.core.model.spec import RunSpec, release_id
from tests.sim.host.docker_model import digest_of

ALL_NODES = "f" * 64
NO_NODE = "0" * 64


def recorded(reference: str, generation: int) -> RecordedRelease:
    """Return a release as a coordinator would record it."""
    release = release_id(digest_of(reference), RunSpec())
    return RecordedRelease(image=ImageReference(reference), release=release, pin=pin_of(release, generation))


@dataclass(slots=True)
class ConsulModel:
    """The keys of one app."""

    index: int = 10
    values: dict[str, tuple[str, int]] = field(default_factory=dict)
    away: str = ""
    """Why it gives no answer: '', 'unknown' or 'forbidden'."""
    record: RolloutRecord | None = None
    saved: tuple[int, dict[str, tuple[str, int]], RolloutRecord | None] | None = None

    def put(self, **values: str) -> None:
        """Write keys in one transaction; an equal value wakes nobody and moves no index."""
        changed = {key: value for key, value in values.items() if self.get(key) != value}
        if changed:
            self.index += 1
            self.values.update({key: (value, self.index) for key, value in changed.items()})

    def get(self, key: str) -> str | None:
        """Return a key's value."""
        return self.values[key][0] if key in self.values else None

    def read(self) -> Outcome:
        """Answer one recursive read."""
        match self.away:
            case "unknown":
                return Unknown("Consul does not answer")
            case "forbidden":
                return Forbidden("Consul says 403")
            case _:
                return Known(KeySnapshot(self._key("active"), self._key("stage"), rollout=self._key("rollout")))

    def _key(self, key: str) -> Reading:
        return Present(*self.values[key]) if key in self.values else ABSENT

    def write_record(self, record: RolloutRecord, **mirrors: str) -> None:
        """Write the record and its mirrors in one transaction."""
        self.record = record
        text = json.dumps({**record.model_dump(mode="json")})
        self.put(rollout=text, **mirrors)

    def begin_rollout(self, target: str, source: RecordedRelease | None) -> None:
        """Write a record in `staging`, as the transaction that resolves the target does."""
        generation = self.record.generation + 1 if self.record else 1
        record = RolloutRecord(
            generation=generation,
            seq=1,
            phase=Phase.STAGING,
            source=source,
            target=recorded(target, generation),
            threshold=NO_NODE,
        )
        self.write_record(record, stage=target)

    def enter(self, phase: Phase) -> None:
        """Move the record to *phase*, with the mirrors its transaction writes."""
        record = self.record
        assert record is not None
        assert record.target is not None
        source = record.source.image if record.source else None
        mirrors: dict[str, str] = {}
        if phase is Phase.SWITCHING:
            mirrors["active"] = record.target.image
        elif phase is Phase.ROLLING_BACK and source:
            mirrors["active"] = source
        threshold = record.threshold if phase is not Phase.SWITCHING else ALL_NODES
        moved = record.model_copy(update={"phase": phase, "seq": record.seq + 1, "threshold": threshold})
        if moved.final is not None:
            mirrors = {"active": moved.final.image, "stage": moved.final.image}
        self.write_record(moved, **mirrors)

    def take_snapshot(self) -> None:
        """Remember everything, to be restored later."""
        self.saved = (self.index, dict(self.values), self.record)

    def restore_snapshot(self) -> None:
        """Go back to the snapshot, as `consul snapshot restore` does."""
        if self.saved is not None:
            self.index, self.values, self.record = self.saved[0], dict(self.saved[1]), self.saved[2]

"""What operators and a coordinator write of one app to the simulated Consul, and how the host is kept from it."""

import json
from dataclasses import dataclass

from agent.adapters.consul.wire import Op, Verb
from agent.core.model import keys
from agent.core.model.names import AppName, ImageReference
from agent.core.model.record import Phase, RecordedRelease, RolloutRecord
from agent.core.model.release import pin_of
from agent.core.model.spec import RunSpec, release_id
from tests.sim.consul.servers import SimConsul
from tests.sim.consul.transport import SimTransport
from tests.sim.host.docker_model import digest_of

ALL_NODES = "f" * 64
NO_NODE = "0" * 64


def recorded(reference: str, generation: int) -> RecordedRelease:
    """Return a release as a coordinator would record it."""
    release = release_id(digest_of(reference), RunSpec())
    return RecordedRelease(image=ImageReference(reference), release=release, pin=pin_of(release, generation))


@dataclass(slots=True)
class ConsulModel:
    """The keys of one app; *host* is what is kept from them."""

    servers: SimConsul
    app: AppName
    host: SimTransport
    record: RolloutRecord | None = None
    saved: RolloutRecord | None = None
    has_saved: bool = False

    @property
    def away(self) -> str:
        """Why the host gets no answer: '', 'unknown' or 'forbidden'."""
        return "unknown" if self.host.link.is_cut else "forbidden" if self.host.is_forbidden else ""

    @away.setter
    def away(self, why: str) -> None:
        self.host.link.is_cut, self.host.is_forbidden = why == "unknown", why == "forbidden"
        if why:
            self.host.link.drop()

    def put(self, **values: str) -> None:
        """Write keys in one transaction; an equal value wakes nobody and moves no index."""
        self.servers.txn([Op(Verb.SET, self._key(name), value.encode()) for name, value in values.items()])

    def get(self, key: str) -> str | None:
        """Return a key's value."""
        entry = self.servers.get(self._key(key))
        return entry.value.decode() if entry is not None else None

    def _key(self, name: str) -> str:
        named = {"active": keys.active_image, "stage": keys.stage_image, "rollout": keys.rollout}
        return named[name](self.app)

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
        self.servers.take_snapshot()
        self.saved, self.has_saved = self.record, True

    def restore_snapshot(self) -> None:
        """Go back to the snapshot, as `consul snapshot restore` does."""
        if self.has_saved:
            self.servers.restore()
            self.record = self.saved

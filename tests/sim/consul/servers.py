"""
A model of the Consul servers: keys with ModifyIndex, transactions, sessions with a TTL, the catalog, snapshots.

As measured on real ones: an equal value moves no index and wakes nobody, `check-index` fails on a missing key,
a session lives for twice its TTL without a renewal, a write to a key of a dead session's lock goes through.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from agent.adapters.consul.services import CheckStatus, Instance
from agent.adapters.consul.wire import Op, TxnConflict, TxnDone, TxnResult, Verb
from agent.core.model.keys import KeyValue
from tests.sim.world_clock import WorldClock

SESSION_TTL_S = 15.0


@dataclass(slots=True)
class Session:
    """A session and the machine it was made on."""

    id: str
    machine: str
    renewed_at: float


@dataclass(frozen=True, slots=True)
class Commit:
    """One transaction that happened: who wrote what over what."""

    by: str
    writes: tuple[Op, ...]
    before: dict[str, KeyValue | None]
    at: float


@dataclass(slots=True)
class Topic:
    """What blocking queries wait for: a key, all keys below a prefix, or the catalog."""

    index: int
    """Of its last change."""
    waiting: list[Callable[[], None]] = field(default_factory=list)
    """Called once, at its next change."""

    def change(self, index: int) -> None:
        """Move to *index*, and wake who waits."""
        self.index = index
        waiting, self.waiting = self.waiting, []
        for wake in waiting:
            wake()


@dataclass(slots=True)
class _Saved:
    index: int
    kv: dict[str, KeyValue]


@dataclass(slots=True)
class SimConsul:
    """The servers' state; every call is answered at once (links make it late)."""

    clock: WorldClock
    index: int = 100
    is_away: bool = False
    """No quorum: nothing is read or written."""
    kv: dict[str, KeyValue] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    catalog: dict[str, Instance] = field(default_factory=dict)
    """Instances of the agents' service by Consul node."""
    on_commit: list[Callable[[Commit], None]] = field(default_factory=list)
    on_restore: list[Callable[[], None]] = field(default_factory=list)
    saved: _Saved | None = None
    restored_times: int = 0
    _prefixes: dict[str, Topic] = field(default_factory=dict)
    _keys: dict[str, Topic] = field(default_factory=dict)
    _agents: Topic = field(init=False)
    _made: int = 0

    def __post_init__(self) -> None:
        self._agents = Topic(self.index)

    def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        return self.kv.get(key)

    def list(self, prefix: str) -> tuple[KeyValue, ...]:
        """Read everything under *prefix*."""
        return tuple(entry for key, entry in self.kv.items() if key.startswith(prefix))

    def topic(self, key: str, *, is_prefix: bool) -> Topic:
        """Return what a query for *key*, or for everything below it, waits for."""
        topics = self._prefixes if is_prefix else self._keys
        if key not in topics:
            topics[key] = Topic(self.index)
        return topics[key]

    @property
    def agents(self) -> Topic:
        """What a query for the agents' service waits for."""
        return self._agents

    def put(self, key: str, value: bytes, by: str = "") -> None:
        """Write one key."""
        self.txn((Op(Verb.SET, key, value),), by)

    def txn(self, ops: Sequence[Op], by: str = "") -> TxnResult:
        """Do all of *ops*, or none where a guard does not hold; a write that changes nothing moves no index."""
        for position, op in enumerate(ops):
            problem = self._problem(op)
            if problem:
                return TxnConflict(position, problem)
        written = tuple(op for op in ops if op.verb in _WRITES and self._changes(op))
        if not written:
            return TxnDone(self._results(ops))
        self.index += 1
        before = {op.key: self.kv.get(op.key) for op in written}
        for op in written:
            self._apply(op)
        commit = Commit(by, written, before, self.clock.now)
        for note in self.on_commit:
            note(commit)
        self._notify([op.key for op in written])
        return TxnDone(self._results(ops))

    def _results(self, ops: Sequence[Op]) -> tuple[KeyValue, ...]:
        return tuple(self.kv[op.key] for op in ops if op.verb in _ANSWERED and op.key in self.kv)

    def _problem(self, op: Op) -> str:
        entry = self.kv.get(op.key)
        index = entry.modify_index if entry else 0
        match op.verb:
            case Verb.CAS | Verb.DELETE_CAS if index != op.index:
                return "index is stale"
            case Verb.CHECK_INDEX if entry is None or index != op.index:
                return "index is stale"
            case Verb.CHECK_NOT_EXISTS if entry is not None:
                return "key exists"
            case Verb.CHECK_SESSION if entry is None or entry.session != op.session:
                return "failed session check"
            case Verb.LOCK if op.session not in self.sessions:
                return "invalid session"
            case Verb.LOCK if entry is not None and entry.session not in ("", op.session):
                return "lock is already held"
            case _:
                return ""

    def _changes(self, op: Op) -> bool:
        entry = self.kv.get(op.key)
        if op.verb in (Verb.DELETE, Verb.DELETE_CAS):
            return entry is not None
        if op.verb is Verb.DELETE_TREE:
            return any(key.startswith(op.key) for key in self.kv)
        return entry is None or entry.value != op.value or (op.verb is Verb.LOCK and entry.session != op.session)

    def _apply(self, op: Op) -> None:
        match op.verb:
            case Verb.SET | Verb.CAS:
                held = self.kv[op.key].session if op.key in self.kv else ""
                self.kv[op.key] = KeyValue(op.key, op.value, self.index, held)
            case Verb.LOCK:
                self.kv[op.key] = KeyValue(op.key, op.value, self.index, op.session)
            case Verb.DELETE | Verb.DELETE_CAS:
                del self.kv[op.key]
            case _:
                for key in [key for key in self.kv if key.startswith(op.key)]:
                    del self.kv[key]

    def _notify(self, keys: Sequence[str]) -> None:
        for prefix, topic in self._prefixes.items():
            if any(key.startswith(prefix) for key in keys):
                topic.change(self.index)
        for key in keys:
            if key in self._keys:
                self._keys[key].change(self.index)

    def _every_topic(self) -> tuple[Topic, ...]:
        return (*self._prefixes.values(), *self._keys.values(), self._agents)

    def open_session(self, machine: str) -> str:
        """Create a session; it ends with its machine, or unrenewed after twice its TTL."""
        self._made += 1
        session = Session(f"session-{self._made}", machine, self.clock.now)
        self.sessions[session.id] = session
        self._expire_later(session)
        return session.id

    def renew(self, session_id: str) -> bool:
        """Renew a session; False: there is none (404)."""
        session = self.sessions.get(session_id)
        if session is None:
            return False
        session.renewed_at = self.clock.now
        self._expire_later(session)
        return True

    def _expire_later(self, session: Session) -> None:
        renewed_at = session.renewed_at

        def expire() -> None:
            if session.renewed_at == renewed_at and not self.is_away:
                self.end_session(session.id)

        self.clock.after(2 * SESSION_TTL_S, expire)

    def end_session(self, session_id: str) -> None:
        """Invalidate a session: its locks are released, the keys stay."""
        if self.sessions.pop(session_id, None) is None:
            return
        held = [key for key, entry in self.kv.items() if entry.session == session_id]
        for key in held:
            self.index += 1
            self.kv[key] = replace(self.kv[key], session="", modify_index=self.index)
        self._notify(held)

    def set_away(self, *, is_away: bool) -> None:
        """Lose the quorum or win it back; a new leader counts all sessions anew."""
        self.is_away = is_away
        if not is_away:
            for session_id in tuple(self.sessions):
                self.renew(session_id)
            for topic in self._every_topic():
                topic.change(topic.index)

    def machine_died(self, machine: str) -> None:
        """End the sessions of a machine, and call its service critical."""
        for session in [session for session in self.sessions.values() if session.machine == machine]:
            self.end_session(session.id)
        self.set_status(machine, CheckStatus.CRITICAL)

    def register(self, machine: str, meta: dict[str, str]) -> None:
        """Register the agent of a machine; its check passes. The same again changes nothing."""
        made = Instance(f"tidegate-agent-{machine}", machine, "", 0, meta, CheckStatus.PASSING)
        if self.catalog.get(machine) != made:
            self.catalog[machine] = made
            self._catalog_changed()

    def set_status(self, machine: str, status: CheckStatus) -> None:
        """Let the check of a machine's agent come to a result."""
        if machine in self.catalog and self.catalog[machine].status is not status:
            self.catalog[machine] = replace(self.catalog[machine], status=status)
            self._catalog_changed()

    def deregister(self, machine: str) -> None:
        """Take a machine's agent out of the catalog."""
        if self.catalog.pop(machine, None) is not None:
            self._catalog_changed()

    def _catalog_changed(self) -> None:
        self.index += 1
        self._agents.change(self.index)

    def take_snapshot(self) -> None:
        """Remember all keys, to be restored later."""
        self.saved = _Saved(self.index, dict(self.kv))

    def restore(self) -> None:
        """Go back to the snapshot: values and indexes as then, sessions of then are gone."""
        if self.saved is None:
            return
        self.index, self.restored_times = self.saved.index, self.restored_times + 1
        self.kv = {key: replace(entry, session="") for key, entry in self.saved.kv.items()}
        self.sessions.clear()
        for note in self.on_restore:
            note()
        for topic in self._every_topic():
            topic.change(self.index)


_WRITES = frozenset({Verb.SET, Verb.CAS, Verb.LOCK, Verb.DELETE, Verb.DELETE_CAS, Verb.DELETE_TREE})
_ANSWERED = frozenset({Verb.SET, Verb.CAS, Verb.LOCK, Verb.UNLOCK, Verb.GET, Verb.CHECK_INDEX, Verb.CHECK_SESSION})

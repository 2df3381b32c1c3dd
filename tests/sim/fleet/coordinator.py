"""
A coordinator: contends for the lock, and while it holds it lets the real core advance the rollout.

What it reads and writes goes through the agent's own adapter, over a client of the simulated Consul. Its process may
stall anywhere, its clock may be wrong, and it may believe for a while that it still holds the lock.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

from agent.adapters.consul.fleet import Fence, FleetReading, assemble, read_keys, read_members, write_change
from agent.adapters.consul.services import Instances
from agent.adapters.consul.wire import Op, TxnDone, Verb
from agent.core.model import keys
from agent.core.model.errors import TidegateError
from agent.core.model.keys import KeyValue
from agent.core.model.names import ImageReference
from agent.core.model.record import Phase
from agent.core.rollout.advance import Transition, advance
from agent.core.rollout.change import Change, Guard, Write, signed, writes_of
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet, Resolution
from agent.core.rollout.liveness import Liveness, track_liveness
from agent.runtime.fleet.housekeeping import Housekeeping
from agent.runtime.fleet.watch import FleetWatch
from tests.sim.fleet.clock import Clock, Process, Sleep
from tests.sim.fleet.link import Link, client_of
from tests.sim.fleet.record_monitor import LOCK
from tests.sim.fleet.watching import APP, PREFIX

RENEW_S, FENCE_S = 5.0, 10.0
READ_EVERY_S = 1.0
ASK_AGAIN_S = 2.0
TIDY_S = 300.0
"""A fleet at rest is looked at this often."""
REPORTS = keys.node_reports(APP)


@dataclass(slots=True)
class CoordinatorBug:
    """A bug planted into a coordinator or into what it sees."""

    advance: Callable[[Decision, Fleet, float], Transition] = advance
    sees: Callable[[Fleet], Fleet] = lambda fleet: fleet
    change: Callable[[Change], Change] = lambda change: change
    writes: Callable[[tuple[Write, ...]], tuple[Write, ...]] = lambda writes: writes
    is_fenced: bool = True
    contends: bool = True
    tidies: bool = True


@dataclass(slots=True, eq=False)
class SimCoordinator:
    """One candidate."""

    name: str
    clock: Clock
    link: Link
    rng: random.Random
    registry: Callable[[str], Resolution | None]
    """Asks for a digest; None: no answer."""
    bug: CoordinatorBug = field(default_factory=CoordinatorBug)
    clock_skew_s: float = 0.0
    process: Process = field(init=False)
    session: str = ""
    epoch: int = 0
    is_stalling: float = 0.0
    """Stall for so long just before the next write."""
    waits: tuple[str, ...] = ()
    _renewed_at: float = 0.0
    _liveness: Liveness = field(default_factory=Liveness)
    _resolved: dict[int, Resolution] = field(default_factory=dict)
    _asks_at: float = 0.0
    _keep: Housekeeping = field(init=False)
    _known: tuple[tuple[KeyValue, ...], Instances] | None = None
    """Reports and catalog as last read."""
    _known_at: float = float("-inf")
    _due: float = float("inf")
    _is_looking: bool = False
    _looked_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.process = Process(self.clock)
        self._new_housekeeping()

    def _new_housekeeping(self) -> None:
        self._keep = Housekeeping(client_of(self.link, self.name), APP, cast("FleetWatch", self))

    @property
    def wall(self) -> float:
        """Unix seconds by its own clock."""
        return 1_000_000.0 + self.clock.now + self.clock_skew_s

    @property
    def trusts_itself(self) -> bool:
        """Whether it may still act: the last renewal that succeeded began a short while ago."""
        return bool(self.session) and self.clock.now - self._renewed_at <= FENCE_S

    def start(self) -> None:
        """Begin, as after a boot."""
        self.process = Process(self.clock, self.process.stalled_until)
        self.session, self._liveness, self._resolved = "", Liveness(), {}
        self._new_housekeeping()
        self._due, self._is_looking, self._known = float("inf"), False, None
        for prefix in (PREFIX, REPORTS):
            self.link.consul.watch(prefix, self.wake)
        if self.bug.contends:
            self.process.spawn(self._contend())

    def kill(self) -> None:
        """End wherever it is."""
        self.process.kill()
        self.session = ""
        for prefix in (PREFIX, REPORTS):
            self.link.consul.unwatch(prefix, self.wake)

    async def _contend(self) -> None:
        while True:
            try:
                entry = await self.link.ask(lambda: self.link.consul.get(LOCK))
                if entry is None or not entry.session:
                    await Sleep(self.rng.uniform(0, 2))
                    if await self._acquire():
                        await self._hold()
            except TidegateError:
                pass
            await Sleep(self.rng.uniform(0.5, 2.0))

    async def _acquire(self) -> bool:
        consul = self.link.consul
        began = self.clock.now
        session = await self.link.ask(lambda: consul.open_session(self.name))
        entry = await self.link.ask(lambda: consul.get(LOCK))
        epoch = (json.loads(entry.value)["epoch"] if entry else 0) + 1
        value = json.dumps({"v": 1, "holder": self.name, "epoch": epoch}).encode()
        guard = Op(Verb.CHECK_INDEX, LOCK, index=entry.modify_index) if entry else Op(Verb.CHECK_NOT_EXISTS, LOCK)
        ops = (guard, Op(Verb.LOCK, LOCK, value, session=session))
        result = await self.link.ask(lambda: consul.txn(ops, self.name))
        if not isinstance(result, TxnDone):
            return False
        self.session, self.epoch, self._renewed_at, self._liveness = session, epoch, began, Liveness()
        return True

    async def _hold(self) -> None:
        self.wake()
        while self.session:
            await Sleep(RENEW_S)
            try:
                if not await self._renew():
                    break
            except TidegateError:
                await Sleep(1.0)
            if self.clock.now - self._renewed_at > 2 * FENCE_S:
                break
        self.session = ""

    async def _renew(self) -> bool:
        began = self.clock.now
        is_alive = await self.link.ask(lambda: self.link.consul.renew(self.session))
        if is_alive:
            self._renewed_at = began
        return is_alive

    def wake(self) -> None:
        """Something changed: look soon, once a second at most."""
        self._look_at(max(self.clock.now, self._looked_at + READ_EVERY_S))

    def _look_at(self, due: float) -> None:
        if self.session and self.process.alive and due < self._due:
            self._due = due
            self.clock.at(due, lambda: self._fire(due))

    def _fire(self, due: float) -> None:
        if due != self._due or not self.process.alive:
            return
        self._due = float("inf")
        if self._is_looking:
            self._look_at(self.clock.now + READ_EVERY_S)
        elif self.session:
            self._is_looking = True
            self.process.spawn(self._look())

    async def _look(self) -> None:
        self._looked_at = self.clock.now
        due = self.clock.now + 5.0
        try:
            due = await self._advance()
        except TidegateError:
            due = self.clock.now + self.rng.uniform(0.3, 2.0)
        self._is_looking = False
        self._look_at(max(due, self.clock.now))

    async def _advance(self) -> float:
        """Read, decide, write; return when to look again."""
        reading = await self._read()
        record = reading.record
        if record is None or not self.trusts_itself:
            return self.clock.now + 5.0
        await self._collect_garbage(reading)
        if record.phase.is_terminal:
            return self.clock.now + TIDY_S
        fleet = await self._fleet(reading, record, is_consistent=False)
        found = self.bug.advance(record, fleet, self.wall)
        if found.needs_consistent:
            reading = await self._read(anew=True)
            if reading.record != record:
                return self.clock.now
            fleet = await self._fleet(reading, record, is_consistent=True)
            found = self.bug.advance(record, fleet, self.wall)
        self.waits = tuple(str(wait) for wait in found.waits)
        if found.change is None:
            return found.look_again_at - self.wall + self.clock.now
        await self._write(self.bug.change(found.change), reading)
        return self.clock.now

    async def _collect_garbage(self, reading: FleetReading) -> None:
        """Clear away what the agent's housekeeping would; it asks :meth:`reports_of_gone`."""
        if reading.record is not None and reading.record.phase.is_terminal:
            self._liveness, _ = track_liveness(self._liveness, reading.live, reading.reports, self.clock.now)
        if self.bug.tidies:
            await self._keep.collect_garbage(reading, Fence(self.session), self.clock.now)

    def reports_of_gone(self, gone_s: float) -> tuple[KeyValue, ...]:
        """Return the reports of hosts not seen for that long, as last read."""
        entries, _ = self._known or ((), None)
        since = {keys.node_report(APP, node): at for node, at in self._liveness.gone.items()}
        return tuple(entry for entry in entries if self.clock.now - since.get(entry.key, self.clock.now) >= gone_s)

    async def _read(self, *, anew: bool = False) -> FleetReading:
        """Read the keys; reports and catalog, too, but not more often than the agent's watch does."""
        client = client_of(self.link, self.name)
        snapshot = await read_keys(client, APP)
        members = await read_members(client, APP, snapshot)
        if anew or self._known is None or self.clock.now - self._known_at >= READ_EVERY_S:
            listing = await client.list(REPORTS)
            self._known = listing.entries, await self.link.ask(self.link.consul.instances)
            self._known_at = self.clock.now
        return assemble(APP, snapshot, members, *self._known)

    async def _fleet(self, reading: FleetReading, record: Decision, *, is_consistent: bool) -> Fleet:
        self._liveness, hosts = track_liveness(self._liveness, reading.live, reading.reports, self.clock.now)
        active = reading.keys.active
        fleet = Fleet(
            hosts=hosts,
            members=reading.members,
            active=ImageReference(active.value) if isinstance(active, keys.Present) else None,
            resolution=await self._resolution(record),
            is_consistent=is_consistent,
        )
        return self.bug.sees(fleet)

    async def _resolution(self, record: Decision) -> Resolution | None:
        known = self._resolved.get(record.generation)
        if record.phase is not Phase.PENDING or record.request is None or (known and (known.digest or known.is_final)):
            return known
        if self.clock.now >= self._asks_at:
            self._asks_at = self.clock.now + ASK_AGAIN_S
            await Sleep(self.rng.uniform(0.02, 0.5))
            found = self.registry(record.request.image)
            if found is not None:
                self._resolved[record.generation] = found
        return self._resolved.get(record.generation)

    async def _write(self, change: Change, reading: FleetReading) -> None:
        if self.is_stalling:
            self.process.stall(self.is_stalling)
            self.is_stalling = 0.0
            await Sleep(0.0)
        elif not self.trusts_itself:
            return
        writes = writes_of(APP, signed(change, self.epoch), reading.indexes, by=self.name, now=self.wall)
        fence = Fence(self.session) if self.bug.is_fenced else None
        writes = self.bug.writes(writes)
        if not self.bug.is_fenced:
            writes = tuple(replace(write, guard=Guard.NONE) for write in writes)
        await write_change(client_of(self.link, self.name), APP, writes, fence)

"""
Advances an app's rollouts while this agent holds the app's lock.

The loop is the agent's own: look, decide (:func:`advance`), write one change, look again. A change is one guarded
transaction; when its answer is lost or it is refused, what Consul holds now is read and counts, whoever wrote it.
With no coordinator nothing advances and nothing breaks.

Deadlines are Unix seconds of this process, counted on from its start: a clock that is stepped fires none of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import structlog

from agent.adapters.consul import ConsulClient
from agent.adapters.consul_fleet import FleetReading, write_change
from agent.adapters.consul_wire import TxnConflict, TxnDenied, TxnDone
from agent.core import keys
from agent.core.errors import ConsulUnavailableError, TidegateError, TransientError
from agent.core.keys import Present
from agent.core.names import AppName, Digest, ImageReference, NodeName
from agent.core.record import Phase
from agent.core.rollout.advance import LOOK_AGAIN_S, Next, advance
from agent.core.rollout.barrier import Wait
from agent.core.rollout.change import Change, signed, writes_of
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Resolution
from agent.runtime.fleet_housekeeping import Housekeeping
from agent.runtime.fleet_watch import FleetWatch
from agent.runtime.leader import Leader, Lease
from agent.runtime.wake import Wake

log = structlog.get_logger()
REFUSED_PAUSE_S = 5.0
RESOLVE_FIRST_S, RESOLVE_MAX_S = 1.0, 30.0

Resolve = Callable[[ImageReference], Awaitable[Digest]]


class _DeposedError(Exception):
    """The lock is not held any more: everything begun under it ends."""


@dataclass(frozen=True, slots=True)
class CoordinatorView:
    """What a coordinator does, for status and metrics."""

    app: AppName
    is_leading: bool = False
    epoch: int = 0
    record: Decision | None = None
    waits: tuple[Wait, ...] = ()
    problem: str = ""
    """Why it does not act, or cannot stand."""


@dataclass(slots=True)
class Coordinator:
    """One app's coordinator, leading or standing by."""

    client: ConsulClient
    leader: Leader
    resolve: Resolve
    wake: Wake = field(default_factory=Wake)
    clock: Callable[[], float] = time.monotonic
    view: CoordinatorView = field(init=False)
    ticked_at: float = field(init=False)
    """Monotonic seconds of the last turn of its loop: at least every few seconds while it lives."""
    _anchor: float = field(init=False)
    """Unix time at the clock's zero."""
    _resolutions: dict[int, Resolution] = field(default_factory=dict)
    _asking: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._anchor = time.time() - self.clock()
        self.view = CoordinatorView(self.app)
        self.ticked_at = self.clock()

    @property
    def app(self) -> AppName:
        """Whose rollouts it advances."""
        return self.leader.app

    @property
    def node(self) -> NodeName:
        """The host it runs on."""
        return self.leader.node

    def now(self) -> float:
        """Return Unix seconds that only go on."""
        return self._anchor + self.clock()

    async def run(self) -> None:
        """Stand for the lock, and coordinate whenever it is held, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.leader.run(), name=f"leader of {self.app}")
            group.create_task(self._stand_by(), name=f"coordinator of {self.app}")

    async def _stand_by(self) -> None:
        while True:
            self.ticked_at = self.clock()
            lease = self.leader.lease
            if lease is None:
                self.view = CoordinatorView(self.app, problem=self.leader.problem)
                await self.wake.wait(self.leader.terms.renew_s)
                continue
            try:
                async with asyncio.TaskGroup() as group:
                    watch = FleetWatch(self.client, self.app, self.node, lambda: self.wake.call("fleet"))
                    group.create_task(watch.run(), name=f"fleet watch of {self.app}")
                    await self._lead(lease, watch, group)
            except* _DeposedError:
                self._asking.clear()

    async def _lead(self, lease: Lease, watch: FleetWatch, group: asyncio.TaskGroup) -> None:
        """Act until the lease ends; then leave by :class:`_DeposedError`, which ends the watch, too."""
        keep = Housekeeping(self.client, self.app, watch)
        while True:
            self.ticked_at = self.clock()
            self._still(lease)
            try:
                look_at = await self._turn(lease, watch, group)
                await keep.tidy(lease.fence, self.clock())
            except _DeposedError:
                raise
            except TidegateError as exc:
                self._show(lease, problem=str(exc))
                look_at = self.now() + REFUSED_PAUSE_S
            except Exception:
                log.exception("coordinator.broke", app=self.app)
                look_at = self.now() + REFUSED_PAUSE_S
            await self.wake.wait(min(look_at - self.now(), LOOK_AGAIN_S))

    def _still(self, lease: Lease) -> None:
        if self.leader.lease != lease:
            raise _DeposedError

    async def _turn(self, lease: Lease, watch: FleetWatch, group: asyncio.TaskGroup) -> float:
        """Advance as far as it goes now; return when to look again."""
        while True:
            reading = await watch.reading()
            if reading is None:
                self._show(lease, problem=watch.problem)
                return self.now() + LOOK_AGAIN_S
            record = reading.record
            if record is None or record.phase.is_terminal:
                watch.fleet(reading, None)  # who goes is seen between rollouts, too
                self._show(lease, record=record)
                return self.now() + LOOK_AGAIN_S
            resolution = self._resolution(record, group)
            step = advance(record, watch.fleet(reading, resolution), self.now())
            if step.needs_consistent:
                reading = await watch.reading_anew()
                step = self._again(reading, watch, resolution) or step
            self._show(lease, record=record, waits=step.waits)
            if step.change is None:
                return step.look_again_at
            await self._write(lease, watch, reading, step.change)

    def _again(self, reading: FleetReading, watch: FleetWatch, resolution: Resolution | None) -> Next | None:
        """Ask once more, of what was read consistently."""
        record = reading.record
        if record is None or self.node not in reading.coordinators:
            return None
        return advance(record, watch.fleet(reading, resolution, is_consistent=True), self.now())

    async def _write(self, lease: Lease, watch: FleetWatch, reading: FleetReading, change: Change) -> None:
        began = self.clock()
        change = signed(change, lease.epoch)
        writes = writes_of(self.app, change, reading.indexes, by=self.node, now=self.now())
        self._still(lease)
        try:
            result = await write_change(self.client, self.app, writes, lease.fence)
        except ConsulUnavailableError as exc:
            log.warning("rollout.outcome_unknown", app=self.app, generation=change.record.generation, error=str(exc))
            await watch.keys_anew()
            return
        match result:
            case TxnDone(results=results):
                entry = next(each for each in results if each.key == keys.rollout(self.app))
                text = next(write for write in writes if write.key == entry.key).value.decode()
                known = replace(reading.keys, rollout=Present(text, entry.modify_index), index=entry.modify_index)
                watch.adopt(known, change.members)
                self._tell(change, self.clock() - began)
            case TxnConflict(what=what):
                self._refused(change, what)
                await watch.keys_anew()
                self._still(lease)
            case TxnDenied(what=what):
                raise TransientError(f"may not write the rollout: {what}")

    def _tell(self, change: Change, duration_s: float) -> None:
        record = change.record
        log.info(
            "rollout.advanced",
            app=self.app,
            generation=record.generation,
            seq=record.seq,
            was=change.was,
            now=record.phase,
            what=change.what,
            why=record.why,
            duration_s=round(duration_s, 4),
        )

    def _refused(self, change: Change, what: str) -> None:
        record = change.record
        log.warning("rollout.refused", app=self.app, generation=record.generation, seq=record.seq, error=what)

    def _show(
        self, lease: Lease, *, record: Decision | None = None, waits: tuple[Wait, ...] = (), problem: str = ""
    ) -> None:
        if problem and problem != self.view.problem:
            log.warning("coordinator.waits", app=self.app, error=problem)
        self.view = CoordinatorView(
            self.app, is_leading=True, epoch=lease.epoch, record=record, waits=waits, problem=problem
        )

    def _resolution(self, record: Decision, group: asyncio.TaskGroup) -> Resolution | None:
        """Return what the registry said, and let it be asked where it was not yet."""
        if record.phase is not Phase.PENDING or record.request is None:
            return None
        generation = record.generation
        if generation not in self._asking and not self._is_settled(generation):
            work = self._ask(generation, record.request.image)
            self._asking[generation] = group.create_task(work, name=f"resolve {record.request.image}")
        return self._resolutions.get(generation)

    def _is_settled(self, generation: int) -> bool:
        known = self._resolutions.get(generation)
        return known is not None and (known.digest is not None or known.is_final)

    async def _ask(self, generation: int, image: ImageReference) -> None:
        pause_s = RESOLVE_FIRST_S
        while not self._is_settled(generation):
            try:
                found = Resolution(digest=await self.resolve(image))
            except TidegateError as exc:
                found = Resolution(error=str(exc), is_final=not isinstance(exc, TransientError))
            self._resolutions = {generation: found}
            self.wake.call("registry")
            if found.digest is None and not found.is_final:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RESOLVE_MAX_S)
        self._asking.pop(generation, None)

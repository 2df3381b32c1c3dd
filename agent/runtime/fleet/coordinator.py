"""
Advances an app's rollouts while this agent holds the app's lock.

The loop is the agent's own: look, decide (:func:`advance`), write one change, look again. A change is one guarded
transaction; when its answer is lost or it is refused, what Consul holds now is read and counts, whoever wrote it.
With no coordinator nothing advances and nothing breaks.

Deadlines are Unix seconds of this process, counted on from its start: a clock that is stepped fires none of them.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from agent.adapters.consul.fleet import FleetReading, write_change
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.watch import Pace
from agent.adapters.consul.wire import TxnConflict, TxnDenied, TxnDone
from agent.core.model import keys
from agent.core.model.errors import ConsulUnavailableError, TidegateError, TransientError
from agent.core.model.keys import Present
from agent.core.model.names import AppName, NodeName
from agent.core.rollout.advance import LOOK_AGAIN_S, Transition, advance
from agent.core.rollout.barrier import Wait
from agent.core.rollout.change import Change, signed, writes_of
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet, Resolution
from agent.pacing.backoff import Backoff
from agent.pacing.clock import Clock, SystemClock
from agent.runtime.fleet.housekeeping import Housekeeping
from agent.runtime.fleet.leader import Leader, Lease
from agent.runtime.fleet.resolver import Resolve, Resolver
from agent.runtime.fleet.watch import NOT_READ_YET, FleetWatch
from agent.runtime.wake import WakeSignal

log = structlog.get_logger()
PAUSE_FIRST_S, PAUSE_MAX_S = 0.5, 5.0
"""Pauses after a turn that failed, one after another."""


@dataclass(frozen=True, slots=True)
class _Duty:
    """What a turn works with."""

    lease: Lease
    watch: FleetWatch
    housekeeping: Housekeeping
    group: asyncio.TaskGroup


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A write of which it is not known what came of it."""

    change: Change
    problem: str
    began: float


class _DeposedError(Exception):
    """The lock is not held any more: everything begun under it ends."""


@dataclass(frozen=True, slots=True)
class CoordinatorView:
    """What a coordinator does, for status and metrics."""

    app: AppName
    is_leading: bool = False
    epoch: int = 0
    record: Decision | None = None
    phase_age_s: float | None = None
    """Seconds since the record entered its phase."""
    waits: tuple[Wait, ...] = ()
    problem: str = ""
    """Why it does not act, or cannot stand."""


@dataclass(slots=True)
class Coordinator:
    """One app's coordinator, leading or standing by."""

    client: ConsulClient
    leader: Leader
    resolve: Resolve
    wake: WakeSignal = field(default_factory=WakeSignal)
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.SystemRandom)
    advance: Callable[[Decision, Fleet, float], Transition] = advance
    view: CoordinatorView = field(init=False)
    ticked_at: float = field(init=False)
    """Monotonic seconds of the last turn of its loop: at least every few seconds while it lives."""
    _anchor: float = field(init=False)
    """Unix time at the clock's zero."""
    _resolver: Resolver = field(init=False)
    _unsure: _Attempt | None = None
    """A write that was refused, or whose answer was lost: what Consul holds now tells what came of it."""
    _able_at: float = 0.0
    """When it last could act, or knew that there was nothing to do."""

    def __post_init__(self) -> None:
        self._resolver = Resolver(self.resolve, lambda: self.wake.call("registry"), self.clock)
        self._anchor = self.clock.wall() - self.clock.now()
        self.view = CoordinatorView(self.app)
        self.ticked_at = self.clock.now()

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
        return self._anchor + self.clock.now()

    async def run(self) -> None:
        """Stand for the lock, and coordinate whenever it is held, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.leader.run(), name=f"leader of {self.app}")
            group.create_task(self._stand_by(), name=f"coordinator of {self.app}")

    async def _stand_by(self) -> None:
        while True:
            self.ticked_at = self.clock.now()
            lease = self.leader.lease
            if lease is None:
                self.view = CoordinatorView(self.app, problem=self.leader.problem)
                await self.wake.wait(self.leader.timings.renew_s)
                continue
            try:
                async with asyncio.TaskGroup() as group:
                    pace = Pace(rng=self.rng, clock=self.clock)
                    watch = FleetWatch(self.client, self.app, self.node, lambda: self.wake.call("fleet"), pace)
                    group.create_task(watch.run(), name=f"fleet watch of {self.app}")
                    await self._lead(lease, watch, group)
            except* _DeposedError:
                self._resolver.stop()
                self._unsure = None

    async def _lead(self, lease: Lease, watch: FleetWatch, group: asyncio.TaskGroup) -> None:
        """Act until the lease ends; then leave by :class:`_DeposedError`, which ends the watch, too."""
        housekeeping, backoff = Housekeeping(self.client, self.app, watch), Backoff(PAUSE_FIRST_S, PAUSE_MAX_S)
        self._able_at = self.clock.now()
        while True:
            self.ticked_at = self.clock.now()
            self._assert_leading(lease)
            try:
                look_at = await self._turn(_Duty(lease, watch, housekeeping, group))
            except _DeposedError:
                raise
            except TidegateError as exc:
                self._show(lease, problem=str(exc))
            except Exception:
                log.exception("coordinator.crashed", app=self.app)
                self._show(lease, problem="a defect in Tidegate; its log says more")
            else:
                backoff.reset()
                await self.wake.wait(min(look_at - self.now(), LOOK_AGAIN_S))
                continue
            await self._rest(lease, backoff.next())

    async def _rest(self, lease: Lease, seconds: float) -> None:
        """Pause, whatever is reported meanwhile; the end of the lease is noticed at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self._assert_leading(lease)
                    await self.wake.wait(seconds)

    def _assert_leading(self, lease: Lease) -> None:
        if self.leader.lease != lease:
            raise _DeposedError

    async def _turn(self, duty: _Duty) -> float:
        """Advance as far as it goes now; return when to look again."""
        lease, watch = duty.lease, duty.watch
        while True:
            reading = await watch.reading()
            if reading is None:
                self._show(lease, problem=watch.problem)
                return self.now() + LOOK_AGAIN_S
            record = reading.record
            self._resolve_unknown_write(record)
            if record is None or record.phase.is_terminal:
                self._resolver.stop()
                watch.fleet(reading, None)  # who goes is seen between rollouts, too
                self._show(lease, record=record)
                await duty.housekeeping.collect_garbage(reading, lease.fence, self.clock.now())
                return self.now() + LOOK_AGAIN_S
            resolution = self._resolver.answer_for(record, duty.group)
            step = self.advance(record, watch.fleet(reading, resolution), self.now())
            if step.needs_consistent:
                reading = await watch.reading_anew()
                step = self._again(reading, watch, resolution) or step
            if step.change is None:
                self._show(lease, record=record, waits=step.waits)
                await duty.housekeeping.collect_garbage(reading, lease.fence, self.clock.now())
                return step.look_again_at
            await self._write(duty, reading, step.change)

    def _again(self, reading: FleetReading, watch: FleetWatch, resolution: Resolution | None) -> Transition | None:
        """Ask once more, of what was read consistently."""
        record = reading.record
        if record is None or watch.problem:
            return None
        return self.advance(record, watch.fleet(reading, resolution, is_consistent=True), self.now())

    async def _write(self, duty: _Duty, reading: FleetReading, change: Change) -> None:
        began, lease = self.clock.now(), duty.lease
        change = signed(change, lease.epoch)
        writes = writes_of(self.app, change, reading.indexes, by=self.node, now=self.now())
        self._assert_leading(lease)
        try:
            result = await write_change(self.client, self.app, writes, lease.fence)
        except ConsulUnavailableError as exc:
            log.warning("rollout.outcome_unknown", app=self.app, generation=change.record.generation, error=str(exc))
            self._unsure = _Attempt(change, str(exc), began)
            duty.watch.invalidate()
            return
        match result:
            case TxnDone(results=results):
                entry = next(each for each in results if each.key == keys.rollout(self.app))
                text = next(write for write in writes if write.key == entry.key).value.decode()
                known = replace(reading.keys, rollout=Present(text, entry.modify_index), index=entry.modify_index)
                duty.watch.apply(known, change.members)
                self._log_advance(change, self.clock.now() - began)
            case TxnConflict(what=what):
                self._unsure = _Attempt(change, what, began)
                duty.watch.invalidate()
                self._assert_leading(lease)
            case TxnDenied(what=what):
                raise TransientError(f"may not write the rollout: {what}")

    def _resolve_unknown_write(self, record: Decision | None) -> None:
        """
        Say what came of a write, now that the record was read anew.

        Raises:
            TransientError: it was refused though nobody else wrote: doing the same again would not help.
        """
        attempt, self._unsure = self._unsure, None
        if attempt is None:
            return
        wanted = attempt.change.record
        if record == wanted:
            self._log_advance(attempt.change, self.clock.now() - attempt.began)
            return
        log.warning(
            "rollout.refused", app=self.app, generation=wanted.generation, seq=wanted.seq, error=attempt.problem
        )
        if record is not None and record.version == (wanted.generation, wanted.seq - 1):
            raise TransientError(f"the rollout could not be written: {attempt.problem}")

    def _log_advance(self, change: Change, duration_s: float) -> None:
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

    def _show(
        self, lease: Lease, *, record: Decision | None = None, waits: tuple[Wait, ...] = (), problem: str = ""
    ) -> None:
        now = self.clock.now()
        if problem not in {"", NOT_READ_YET, self.view.problem}:
            log.warning("coordinator.waits", app=self.app, error=problem)
        if not problem:
            self._able_at = now
        elif now - self._able_at > self.leader.timings.unable_s:
            self.leader.resign(problem)
        age_s = max(0.0, self.now() - record.since) if record is not None and record.since is not None else None
        self.view = CoordinatorView(
            self.app,
            is_leading=True,
            epoch=lease.epoch,
            record=record,
            phase_age_s=age_s,
            waits=waits,
            problem=problem,
        )

"""
Who coordinates: a Consul session that holds the lock of an app, and an epoch of our own.

The lock is advice; the fence is that each write checks the session and the record's index (``check-session``,
``cas``). A holder stops by itself before its session can have expired: when the last renewal that succeeded was
*begun* more than ``FENCE_S`` ago. LockDelay is 0, which is safe because of the fence.

The lock's value holds the epoch: the next holder writes the next one, in a transaction that also checks that the key
is as it was read. The key is never deleted: its holder is released when the session ends.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from agent.adapters.consul.fleet import Fence
from agent.adapters.consul.kv import Block, Consistency, ConsulClient
from agent.adapters.consul.sessions import (
    SessionGoneError,
    SessionSpec,
    create_session,
    destroy_session,
    renew_session,
)
from agent.adapters.consul.wire import Op, TxnDenied, TxnDone, TxnResult, Verb
from agent.core.model import keys
from agent.core.model.errors import ConsulUnavailableError, PermanentError, TidegateError
from agent.core.model.keys import KeyValue
from agent.core.model.names import AppName, NodeName
from agent.core.rollout.lock import LockValue, read_lock
from agent.pacing.clock import Clock, SystemClock

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LeaseTimings:
    """Times of an election, in seconds."""

    ttl_s: int = 15
    """Consul's session TTL: an expired session ends up to twice as late."""
    renew_s: float = 5.0
    fence_s: float = 10.0
    """Below the TTL: a session cannot have expired before its holder has stopped."""
    wait_s: float = 60.0
    """Longest wait for a change of the lock."""
    jitter_s: float = 2.0
    """Candidates stand after a pause up to this, so that they do not all stand at once."""
    retry_s: float = 2.0
    """Pause after an election that failed; after a renewal that did, at most."""
    unable_s: float = 15.0
    """A leader that could not act for so long resigns."""
    shy_s: float = 20.0
    """Back-off after resigning, so that another candidate can win."""
    release_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A turn of holding the lock."""

    session: str
    epoch: int

    @property
    def fence(self) -> Fence:
        """What makes a write fail once this turn is over."""
        return Fence(self.session)


@dataclass(slots=True)
class Leader:
    """Stands for one app's lock, holds it while it can, and says whether it does."""

    client: ConsulClient
    app: AppName
    node: NodeName
    instance: str
    on_change: Callable[[], None]
    """Called when the lease begins or ends; must not block."""
    timings: LeaseTimings = LeaseTimings()
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.SystemRandom)
    _lease: Lease | None = None
    _renewed_at: float = float("-inf")
    _resigned: asyncio.Event = field(default_factory=asyncio.Event)
    problem: str = ""
    """Why it does not stand, for an operator."""

    @property
    def lease(self) -> Lease | None:
        """The lease, while it may be acted on: never once its session may have expired."""
        if self._lease is None or self.clock.now() - self._renewed_at > self.timings.fence_s:
            return None
        return self._lease

    async def run(self) -> None:
        """Stand and hold for ever; cancelled, it gives the lock back at once."""
        while True:
            pause_s = self.timings.retry_s
            try:
                if await self._turn():
                    pause_s = self.timings.shy_s if self._resigned.is_set() else 0.0
            except TidegateError as exc:
                self._log_problem(str(exc))
            await self.clock.sleep(pause_s * self.rng.uniform(0.5, 1.5))

    def resign(self, reason: str) -> None:
        """Give the lock back, where it is held: this agent cannot act, another one may."""
        if self._lease is not None and not self._resigned.is_set():
            self._resigned.set()
            self._log_problem(f"resigned: {reason}")

    async def _turn(self) -> bool:
        """Stand for the lock once, and hold it to the end where it was won; return whether it was."""
        entry = await self._until_free()
        began = self.clock.now()
        session = await create_session(self.client, SessionSpec(f"tidegate {self.app}", self.timings.ttl_s))
        try:
            epoch = read_lock(entry).epoch + 1
            if not await self._acquire(entry, session, epoch):
                return False
            self._resigned.clear()
            self._renewed_at, self._lease = began, Lease(session, epoch)
            self._log_problem("")
            log.info("coordinator.elected", app=self.app, epoch=epoch)
            self.on_change()
            await self._hold(session)
            return True
        finally:
            await self._end(session)

    async def _until_free(self) -> KeyValue | None:
        """Wait until nobody holds the lock; return its key as it was read then."""
        key, index, waited = keys.coordinator(self.app), 0, False
        while True:
            if index:
                block = Block(index, self.timings.wait_s)
                listing = await self.client.get_blocking(key, block)
                index = 0 if listing.index < index else listing.index
                entry = listing.entries[0] if listing.entries else None
            else:
                entry, index = await self.client.get(key), 1
            if entry is None or not entry.session:
                if waited:
                    await self.clock.sleep(self.rng.uniform(0, self.timings.jitter_s))
                    entry = await self.client.get(key)
                if entry is None or not entry.session:
                    return entry
            waited = True
            index = max(index, entry.modify_index)

    async def _acquire(self, entry: KeyValue | None, session: str, epoch: int) -> bool:
        key = keys.coordinator(self.app)
        value = LockValue(node=self.node, instance=self.instance, epoch=epoch).model_dump_json().encode()
        guard = Op(Verb.CHECK_NOT_EXISTS, key) if entry is None else Op(Verb.CHECK_INDEX, key, index=entry.modify_index)
        lock = Op(Verb.LOCK, key, value, session=session)
        try:
            result: TxnResult = await self.client.txn(guard, lock)
        except ConsulUnavailableError:
            # It may have happened: the key says so.
            now = await self.client.get(key, consistency=Consistency.CONSISTENT)
            return now is not None and now.session == session
        if isinstance(result, TxnDenied):
            raise PermanentError(f"may not take the lock {key}: {result.what}")
        return isinstance(result, TxnDone)

    async def _hold(self, session: str) -> None:
        """Renew until the session is gone or may be, or it resigned; asked again soon where Consul does not answer."""
        pause_s = self.timings.renew_s
        while not await self._resigns_within(pause_s):
            began = self.clock.now()
            try:
                await renew_session(self.client, session, deadline_s=self.timings.renew_s)
            except SessionGoneError:
                self._log_problem("the session is gone")
                return
            except TidegateError as exc:
                self._log_problem(f"the session cannot be renewed: {exc}")
                pause_s = min(self.timings.retry_s, self.timings.renew_s) / 2
            else:
                self._log_problem("")
                self._renewed_at, pause_s = began, self.timings.renew_s
            if self.lease is None:
                return

    async def _resigns_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._resigned.wait()
        except TimeoutError:
            return False

    async def _end(self, session: str) -> None:
        held, self._lease = self._lease, None
        if held is not None:
            log.warning("coordinator.deposed", app=self.app, epoch=held.epoch, reason=self.problem or "it ends")
            self.on_change()
        try:
            await destroy_session(self.client, session, deadline_s=self.timings.release_s)
        except TidegateError:
            return  # it expires by itself

    def _log_problem(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("coordinator.election_failed", app=self.app, error=problem)
        self.problem = problem

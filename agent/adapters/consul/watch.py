"""
The watch on an app's desired state: one recursive blocking query on ``<app>/``, for ever.

Tells what Consul says whenever that changes, and never that "something woke": each answer is re-read whole and
compared. It keeps nothing for its caller: on :class:`Unknown` and :class:`Forbidden` the caller keeps what was last
good, and a value that went back is delivered as it is, for the core to judge.

The rules of Consul's blocking queries that hold here, each with a test in the contract suite:

* the first read, and the first after any failure, does not block;
* an index that went back starts over; an index is at least 1;
* Consul waits at most ``wait_s`` + 1/16; after that and a grace our own timeout ends the query: the agent may hang;
* reads are paced by a token bucket (two at once, then one a second), failures by a growing, jittered back-off;
* a recursive read without permission looks empty: keys that are absent, and were not before, are asked for singly.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Never

from agent.adapters.consul.kv import Block, ConsulClient, Listing
from agent.core.model.errors import ConsulForbiddenError, ConsulUnavailableError, TidegateError
from agent.core.model.keys import (
    Forbidden,
    Known,
    Outcome,
    Unknown,
    active_image,
    app_prefix,
    desired_keys,
    read_snapshot,
)
from agent.core.model.names import AppName
from agent.pacing.backoff import Backoff
from agent.pacing.clock import Clock, SystemClock

BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 15.0


def _ignore() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Pace:
    """The times of a watch, and where it takes time and chance from."""

    wait_s: float = 60.0
    """Longest time between two reads: bounds what a lost wake-up can cost."""
    grace_s: float = 11.0
    """Time for an answer beyond the wait, before the agent counts as hung."""
    rng: random.Random = field(default_factory=random.SystemRandom)
    clock: Clock = field(default_factory=SystemClock)

    def backoff(self) -> Backoff:
        """Return the pauses after failures, none yet."""
        return Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S, jitter=0.5, rng=self.rng)


class TokenBucket:
    """Lets *burst* pass at once, then one in *refill_s* seconds."""

    def __init__(self, pace: Pace, *, burst: int = 2, refill_s: float = 1.0) -> None:
        self._pace = pace
        self._burst = burst
        self._refill_s = refill_s
        self._tokens = float(burst)
        self._at = pace.clock.now()

    async def take(self) -> None:
        """Take a token, waiting for one where there is none."""
        now = self._pace.clock.now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) / self._refill_s) - 1
        self._at = now
        if self._tokens < 0:
            await self._pace.clock.sleep(-self._tokens * self._refill_s)


def next_index(asked: int, answered: int) -> int:
    """Return the index to ask with next; 0 means to read without blocking, since Consul's went back."""
    return 0 if answered < asked else max(1, answered)


async def watch(
    client: ConsulClient,
    app: AppName,
    on_reading: Callable[[Outcome], None],
    *,
    on_contact: Callable[[], None] = _ignore,
    pace: Pace | None = None,
) -> Never:
    """
    Tell *on_reading* what Consul says of the app: at first, then at each change of it, until cancelled.

    An outcome equal to the last one told is not told again. *on_contact* is called after each read that gave a
    :class:`Known`, equal or not, before *on_reading*: Consul confirmed just now what is known. Both must not block;
    what they raise ends the watch.
    """
    watcher = _Watcher(client, app, pace or Pace())
    told: Outcome | None = None
    while True:
        outcome = await watcher.next_outcome()
        if isinstance(outcome, Known):
            on_contact()
        if outcome != told:
            told = outcome
            on_reading(outcome)


class _Watcher:
    """The state between two reads."""

    def __init__(self, client: ConsulClient, app: AppName, pace: Pace) -> None:
        self._client = client
        self._app = app
        self._pace = pace
        self._bucket = TokenBucket(pace)
        self._index = 0
        self._backoff = pace.backoff()
        self._pause_s = 0.0
        self._confirmed: frozenset[str] = frozenset()
        """Keys whose absence was confirmed since the last failure, and that were not seen since."""

    async def next_outcome(self) -> Outcome:
        if self._pause_s:
            await self._pace.clock.sleep(self._pause_s)
            self._pause_s = 0.0
        await self._bucket.take()
        try:
            known = await self._read()
        except ConsulForbiddenError as exc:
            self._fall_back()
            return Forbidden(str(exc))
        except TidegateError as exc:
            self._fall_back()
            return Unknown(str(exc))
        self._backoff.reset()
        return known

    def _fall_back(self) -> None:
        self._index = 0
        self._confirmed = frozenset()
        self._pause_s = self._backoff.next()

    async def _read(self) -> Known:
        block = Block(self._index, self._pace.wait_s, self._pace.grace_s) if self._index else None
        for _ in range(2):
            listing = await self._client.list(app_prefix(self._app), block=block)
            if await self._is_whole(listing):
                self._index = next_index(self._index, listing.index)
                return Known(read_snapshot(self._app, listing.entries, listing.index))
            block = None
        raise ConsulUnavailableError(f"{self._client.name}: the keys under {self._app}/ changed between two reads")

    async def _is_whole(self, listing: Listing) -> bool:
        """Confirm what the listing lacks; False when a key exists after all, so that it must be read again."""
        if listing.is_filtered:
            raise ConsulForbiddenError(f"{self._client.name}: the token may not read all keys under {self._app}/")
        absent = frozenset(desired_keys(self._app)) - {entry.key for entry in listing.entries}
        canary = {active_image(self._app)} if not listing.entries else set()
        for key in sorted((absent - self._confirmed) | canary):
            try:
                if await self._client.get(key) is not None:
                    return False
            except ConsulForbiddenError as exc:
                raise ConsulForbiddenError(f"key {key}: {exc}") from exc
        self._confirmed = absent
        return True

"""A host's blocking query on the app's keys: woken by writes, late, deaf for a while, or cut off."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.core.model.keys import KeySnapshot, Known, Outcome, Unknown, app_prefix, read_snapshot
from agent.core.model.names import AppName
from tests.sim.fleet.clock import Clock
from tests.sim.fleet.consul import SimConsul
from tests.sim.fleet.link import Link

WAIT_S = 60.0
APP = AppName("cs90")
PREFIX = app_prefix(APP)


@dataclass(slots=True)
class Snapshots:
    """The app's keys as one atomic read, parsed once for all who read the same."""

    consul: SimConsul
    _at: tuple[int, int] | None = None
    _last: KeySnapshot = field(default_factory=KeySnapshot)

    def read(self) -> KeySnapshot:
        """Return what a recursive read returns now."""
        at = self.consul.restored_times, self.consul.index_of(PREFIX)
        if at != self._at:
            self._at, self._last = at, read_snapshot(APP, self.consul.list(PREFIX), at[1])
        return self._last


@dataclass(slots=True, eq=False)
class Watch:
    """
    Delivers outcomes to one agent.

    Args:
        deliver: takes each outcome, and whether Consul's index went back.
    """

    clock: Clock
    link: Link
    snapshots: Snapshots
    rng: random.Random
    deliver: Callable[[Outcome, bool], None]
    is_running: bool = False
    is_deaf: bool = False
    """Wakes get lost: only the end of the wait brings news."""
    _run: int = 0
    _seen: int = 0
    _waits: bool = False
    _waits_since: float = 0.0

    def start(self) -> None:
        """Begin with a read that does not block."""
        self.stop()
        self._run, self.is_running, self._seen, self._waits = self._run + 1, True, 0, False
        self.link.consul.watch(PREFIX, self.wake)
        self._ask(self._run)

    def stop(self) -> None:
        """End with the agent."""
        self.is_running = False
        self.link.consul.unwatch(PREFIX, self.wake)

    def wake(self) -> None:
        """Something changed under the prefix."""
        if self._waits and not self.is_deaf and self.link.is_open:
            self._waits = False
            self._ask(self._run)

    def link_changed(self) -> None:
        """Notice a cut, or ask again after it."""
        if not self.is_running:
            return
        run, self._waits = self._run, False
        if self.link.is_open:
            self.clock.after(self.rng.uniform(0.1, 5.0), lambda: self._ask(run))
        else:
            self.clock.after(self.rng.uniform(0.0, 4.0), lambda: self._lost(run))

    def _lost(self, run: int) -> None:
        if self._is_current(run) and not self.link.is_open:
            self._seen = 0
            self.deliver(Unknown("Consul does not answer"), False)

    def _ask(self, run: int) -> None:
        self.clock.after(self.link.latency(), lambda: self._reply(run))

    def _reply(self, run: int) -> None:
        """At the servers: read; the answer travels back."""
        if not self._is_current(run):
            return
        if self.link.loses():
            if self.link.is_open:
                self.clock.after(self.rng.uniform(0.2, 2.0), lambda: self._ask(run))
            return
        snapshot = self.snapshots.read()
        self.clock.after(self.link.latency(), lambda: self._take(run, snapshot))

    def _take(self, run: int, snapshot: KeySnapshot) -> None:
        if not self._is_current(run) or not self.link.is_open:
            return
        went_back, self._seen = snapshot.index < self._seen, snapshot.index
        self.deliver(Known(snapshot), went_back)
        if self.link.consul.index_of(PREFIX) != snapshot.index and not self.is_deaf:
            self._ask(run)
            return
        self._waits, self._waits_since = True, self.clock.now
        wait_s = self.rng.uniform(1.0, WAIT_S) if self.is_deaf else WAIT_S
        since = self.clock.now
        self.clock.after(wait_s, lambda: self._end_wait(run, since))

    def _end_wait(self, run: int, since: float) -> None:
        if self._is_current(run) and self._waits and self._waits_since == since:
            self._waits = False
            self._ask(run)

    def _is_current(self, run: int) -> bool:
        return self.is_running and run == self._run

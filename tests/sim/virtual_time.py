"""
An event loop whose time is virtual: waiting takes none, and whatever runs on it is the shipped asyncio code.

``time()`` stands still while callbacks run, and jumps to the next timer when none is ready. Timers that are due at
the same time run in the order in which they were made, so that a run depends on its seed alone. There are no sockets
and no threads: ``to_thread`` calls at once.

A :class:`Process` is one operating system's process on this loop. What it runs is told apart by its context
variables, which asyncio carries from task to task and from task to timer: so a process is stalled or killed as a
whole, whatever its code awaits, and none of its code takes part in that.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from itertools import count
from typing import Any

UNIX_S = 1_000_000.0
"""The wall clocks of the simulation begin here."""
_ENDS_WITHIN = 1000
"""Rounds in which all tasks must have ended once they are cancelled."""


class StuckError(RuntimeError):
    """A coroutine is awaited and nothing is left that could wake it."""


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop; drive it by :meth:`run_to`, or by ``asyncio.Runner(loop_factory=VirtualLoop)``."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = count()
        self.world = Context()
        self._is_ending = False
        self.processes: list[Process] = []

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        """Let *callback* run after what is ready now."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Let *callback* run at *when*."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (max(when, self._now), next(self._order), handle))
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Let *callback* run after *delay* seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def at(self, when: float, callback: Callable[[], object]) -> None:
        """Let *callback* run at *when*, as part of the world and of no process."""
        self.call_at(when, callback, context=self.world)

    def run_in_executor(  # type: ignore[override]
        self,
        executor: object,  # noqa: ARG002 - there are no threads
        func: Callable[..., object],
        *args: Any,
    ) -> asyncio.Future[Any]:
        """Call *func* at once: there are no threads."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001 - whoever awaits it gets it
            future.set_exception(exc)
        return future

    def run_to(self, until: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass until *until*, or until *stop* holds between two moments; return whether it does."""
        timers = self._timers
        with self._as_running():
            while True:
                self._run_ready()
                if stop():
                    return True
                if not timers or timers[0][0] > until:
                    self._now = max(self._now, until)
                    return False
                self._jump()

    def end(self) -> None:
        """Cancel every task, also those of processes that were killed, and close the loop. Idempotent."""
        if self.is_closed():
            return
        self._is_ending = True
        with self._as_running():
            for _ in range(_ENDS_WITHIN):
                tasks = asyncio.all_tasks(self)
                if not tasks:
                    break
                for process in self.processes:
                    self._ready.extend(process.release())
                for task in tasks:
                    task.cancel()
                self._run_ready()
        self._timers.clear()
        self._ready.clear()
        self.close()

    def _run_once(self) -> None:
        """Run what is ready, or what is due next; for ``run_forever``."""
        if not self._ready:
            if not self._timers:
                raise StuckError("no task is ready and no timer is set")
            self._jump()
        self._run_ready(len(self._ready))

    def _run_ready(self, at_most: int = -1) -> None:
        ready = self._ready
        while ready and at_most:
            at_most -= 1
            handle = ready.popleft()
            if handle._cancelled:
                continue
            context: Context = handle._context  # type: ignore[attr-defined]
            process = context.get(PROCESS)
            if process is not None and not self._is_ending and process.keeps(handle):
                continue
            context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]

    def _jump(self) -> None:
        """Go on to the next moment in which something is due; all that is due then is ready."""
        timers, ready = self._timers, self._ready
        self._now = timers[0][0]
        while timers and timers[0][0] == self._now:
            handle = heapq.heappop(timers)[2]
            if not handle._cancelled:
                ready.append(handle)

    @contextmanager
    def _as_running(self) -> Iterator[None]:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it where it is: it is skipped when it is due."""

    def _write_to_self(self) -> None:
        """There is no other thread to wake."""

    def _process_events(self, event_list: object) -> None:
        """There are no sockets."""


@dataclass(eq=False, slots=True)
class Process:
    """
    An operating system's process: it may stall for a while, and what it does ends when it is killed.

    Killed, it runs nothing any more, no ``finally`` and no ``except CancelledError``: as by SIGKILL.
    """

    loop: VirtualLoop
    is_alive: bool = True
    stalled_until: float = 0.0
    _roots: list[asyncio.Task[Any]] = field(default_factory=list)
    """Keep what was begun from being collected, and so from being closed, after a kill."""
    _held: list[asyncio.Handle] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop.processes.append(self)

    def spawn(self, coroutine: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Begin a task of this process, with all that it begins itself."""
        context = copy_context()
        context.run(PROCESS.set, self)
        task = self.loop.create_task(coroutine, context=context)
        self._roots.append(task)
        return task

    def kill(self) -> None:
        """End it wherever it is."""
        self.is_alive = False

    def stall(self, seconds: float) -> None:
        """Let it do nothing for a while, as a virtual machine does that is moved; its clock goes on."""
        until = self.loop.time() + seconds
        if until > self.stalled_until:
            self.stalled_until = until
            self.loop.at(until, self._thaw)

    @property
    def is_stalled(self) -> bool:
        """Whether it does nothing just now."""
        return self.stalled_until > self.loop.time()

    def keeps(self, handle: asyncio.Handle) -> bool:
        """Take a callback of this process that may not run now; return whether it may not."""
        if self.is_alive and self.stalled_until <= self.loop._now:
            return False
        self._held.append(handle)
        return True

    def release(self) -> list[asyncio.Handle]:
        """Return what was held, in order, once."""
        held, self._held = self._held, []
        return held

    def _thaw(self) -> None:
        if self.is_alive and not self.is_stalled:
            self.loop._ready.extendleft(reversed(self.release()))


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
"""Whose code runs; None for the world's."""


@dataclass(frozen=True, slots=True)
class SimClock:
    """The clock of one process: the loop's time, and a wall clock that is wrong by *skew_s*."""

    loop: VirtualLoop
    clock_skew_s: float = 0.0

    def now(self) -> float:
        """Return the loop's seconds."""
        return self.loop.time()

    def wall(self) -> float:
        """Return Unix seconds as this machine has them."""
        return UNIX_S + self.loop.time() + self.clock_skew_s

    async def sleep(self, seconds: float) -> None:
        """Sleep in virtual time."""
        await asyncio.sleep(seconds)

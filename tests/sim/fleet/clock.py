"""Virtual time: a heap of what is due, and processes whose coroutines sleep in it, stall and die."""

import heapq
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

Due = Callable[[], object]


@dataclass(slots=True)
class Clock:
    """The only clock there is; nothing happens between two things that are due."""

    now: float = 0.0
    _heap: list[tuple[float, int, Due]] = field(default_factory=list)
    _order: "count[int]" = field(default_factory=count)

    def at(self, due: float, what: Due) -> None:
        """Let *what* happen at *due*, or now where that is past."""
        heapq.heappush(self._heap, (max(due, self.now), next(self._order), what))

    def after(self, delay_s: float, what: Due) -> None:
        """Let *what* happen after *delay_s*."""
        self.at(self.now + delay_s, what)

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass until *until*, or until *stop* holds; say whether it did."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, what = heapq.heappop(self._heap)
            what()
            if stop():
                return True
        self.now = max(self.now, until)
        return stop()


class Sleep:
    """What a coroutine awaits to let time pass."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        yield self.seconds


Task = Coroutine[Any, None, object]


@dataclass(slots=True, eq=False)
class Process:
    """An operating system's process: it may stall for a while, and what it does ends when it is killed."""

    clock: Clock
    stalled_until: float = 0.0
    alive: bool = True
    _tasks: set[Task] = field(default_factory=set)

    def spawn(self, task: Task) -> None:
        """Begin a task at once."""
        self._tasks.add(task)
        self._step(task)

    def kill(self) -> None:
        """End it wherever it is."""
        self.alive = False
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.close()

    def stall(self, seconds: float) -> None:
        """Let it do nothing for a while, as a virtual machine does that is moved."""
        self.stalled_until = max(self.stalled_until, self.clock.now + seconds)

    def _step(self, task: Task) -> None:
        if task not in self._tasks:
            return
        if self.clock.now < self.stalled_until:
            self.clock.at(self.stalled_until, lambda: self._step(task))
            return
        try:
            delay_s = task.send(None)
        except StopIteration:
            self._tasks.discard(task)
            return
        self.clock.after(delay_s, lambda: self._step(task))

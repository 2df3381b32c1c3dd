"""What the world does by time: faults, visitors and checks, on the same virtual loop as the processes."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from tests.sim.virtual_time import VirtualLoop

_SILENT = structlog.make_filtering_bound_logger(logging.CRITICAL)


@dataclass(slots=True)
class WorldClock:
    """The only time there is; nothing happens between two things that are due."""

    loop: VirtualLoop = field(default_factory=VirtualLoop)

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self.loop.time()

    def at(self, due: float, what: Callable[[], object]) -> None:
        """Let *what* happen at *due*, or now where that is past."""
        self.loop.at(due, what)

    def after(self, delay_s: float, what: Callable[[], object]) -> None:
        """Let *what* happen after *delay_s*."""
        self.loop.at(self.loop.time() + delay_s, what)

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass until *until*, or until *stop* holds; say whether it does."""
        with _without_logs():
            return self.loop.run_to(until, stop)

    def end(self) -> None:
        """End all processes and the loop. Idempotent."""
        with _without_logs():
            self.loop.end()


@contextmanager
def _without_logs() -> Iterator[None]:
    """Drop what the processes log: it is of no use, and takes a third of the time."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=_SILENT)
    try:
        yield
    finally:
        structlog.configure(**before)

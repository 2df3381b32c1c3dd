"""
Watch a rollout until a command's goal is reached: look at Consul, tell what :mod:`agent.cli.rollout.progress` says.

It only looks: whoever interrupts it leaves the rollout as it is.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import typer
from rich.live import Live

from agent.adapters.consul.fleet_snapshot import snapshot
from agent.adapters.consul.history import Entry, read_rollout
from agent.adapters.consul.kv import Block, Consistency
from agent.cli.connect import Session
from agent.cli.exit_codes import Exit
from agent.cli.rollout.progress import CommandResult, Followed, ProgressState, diff, ended, result_of, waiting_text
from agent.cli.views.fleet import FleetView, view_of
from agent.cli.views.fleet_table import console, render
from agent.cli.views.text import clean, clock
from agent.core.model import keys
from agent.core.model.errors import ConsulUnavailableError, TidegateError, TransientError
from agent.core.rollout.decision import Decision
from agent.core.rollout.liveness import Liveness

LOOK_S = 1.0
SHORTEST_S = 0.1
"""Between two looks, however fast the record moves."""
HOSTS_A_SECOND = 250
"""Reports are read again at most this fast: a large fleet is looked at less often."""
FRAME_ROWS = 12
"""Lines of a live view beside the hosts."""


class Output(Protocol):
    """Where news go."""

    def tell(self, line: str, at: float | None = None) -> None:
        """Take a line that stays; *at*: Unix seconds, now by default."""

    def show(self, view: FleetView) -> None:
        """Take the present state."""


class Plain:
    """Lines with the time, one per change: a pipe, a file, a log of a pipeline."""

    def __init__(self, *, err: bool = False) -> None:
        self._err = err

    def tell(self, line: str, at: float | None = None) -> None:
        """Print it."""
        typer.echo(f"{clock(at or time.time())} {line}", err=self._err)

    def show(self, view: FleetView) -> None:
        """Say nothing: what changed was told."""


class OnScreen:
    """A live table on a terminal; lines that stay scroll above it."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def tell(self, line: str, at: float | None = None) -> None:
        """Print it above the table."""
        self._live.console.print(f"{clock(at or time.time())} {line}", markup=False, highlight=False, soft_wrap=True)

    def show(self, view: FleetView) -> None:
        """Show it in place of the last one."""
        room = max(3, self._live.console.height - FRAME_ROWS - len(view.bars))
        self._live.update(render(view, rows_max=room), refresh=True)


@contextmanager
def output(*, as_json: bool) -> Iterator[Output]:
    """Choose by what standard output is; JSON is alone there, and the lines go to standard error."""
    screen = console()
    if as_json or not screen.is_terminal:
        yield Plain(err=as_json)
        return
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        yield OnScreen(live)


@dataclass(slots=True)
class Follower:
    """Follows one rollout."""

    session: Session
    out: Output
    followed: Followed
    until: float = float("inf")
    """Monotonic seconds at which following ends."""
    since: int = 0
    """Number of the record's first write that is told."""
    clock: Callable[[], float] = time.monotonic
    view: FleetView | None = None
    """The last one."""
    _state: ProgressState | None = None
    _liveness: Liveness = field(default_factory=Liveness)
    _problem: str = ""

    async def run(self) -> CommandResult:
        """
        Return when the goal is reached, the rollout has ended, or time is over.

        Raises:
            PermanentError: the token may not look any more.
        """
        while True:
            if (end := await self._look()) is not None:
                return end
            if self.clock() >= self.until:
                return self._late()
            await until_change(self.session, None if self._problem else self.view, self.until - self.clock())

    def _late(self) -> CommandResult:
        waits = self._problem or (waiting_text(self.view) if self.view else "Consul was not read")
        record = self.view.record if self.view else None
        text = f"rollout {self.followed.generation} did not reach this point within --timeout: {clean(waits)}"
        return CommandResult(Exit.TIMED_OUT, str(record.phase) if record else "unknown", text)

    async def _look(self) -> CommandResult | None:
        try:
            seen = await snapshot(self.session.client, self.session.app, Consistency.CONSISTENT)
        except TransientError as exc:
            if not self._problem:
                self.out.tell(f"{clean(str(exc))}; goes on trying")
            self._problem = str(exc)
            return None
        if self._problem:
            self.out.tell("Consul answers again")
            self._problem = ""
        self.view, self._liveness = view_of(seen, self._liveness)
        record = self.view.record
        if record is not None and record.generation > self.followed.generation:
            return await self._from_history()
        if record is not None and record.generation == self.followed.generation:
            await self._log_changes(self.view, record)
        self.out.show(self.view)
        return result_of(self.view, self.followed)

    async def _log_changes(self, view: FleetView, record: Decision) -> None:
        entries: tuple[Entry, ...] = ()
        before = self._state or ProgressState(seq=self.since - 1)
        if record.seq != before.seq:
            with suppress(TidegateError):  # the record's own words do
                found = await read_rollout(self.session.client, self.session.app, record.generation)
                entries = found.entries if found else ()
        self._state, lines = diff(before, view, entries)
        for line in lines:
            if not (line.is_of_a_host and isinstance(self.out, OnScreen)):
                self.out.tell(line.text, line.at)

    async def _from_history(self) -> CommandResult:
        """Judge by the audit entries: somebody began another rollout since the last look."""
        found = await read_rollout(self.session.client, self.session.app, self.followed.generation)
        entry = found.last if found else None
        if entry is None or entry.phase is None or not entry.phase.is_terminal:
            text = f"another rollout began, and the history does not tell how {self.followed.generation} ended"
            return CommandResult(Exit.ERROR, "unknown", text)
        return ended(self.followed, entry.phase, entry.why)


async def until_change(session: Session, view: FleetView | None, most_s: float = float("inf")) -> None:
    """Wait for a change of the app's keys, at most until it is time to read the reports again."""
    hosts = len(view.rows) if view else 0
    wait_s = min(max(LOOK_S, hosts / HOSTS_A_SECOND), max(0.05, most_s))
    index = view.snapshot.reading.keys.index if view else 0
    began = time.monotonic()
    if index:
        try:
            await session.client.list(keys.app_prefix(session.app), block=Block(index, wait_s, grace_s=2.0))
            await asyncio.sleep(max(0.0, SHORTEST_S - (time.monotonic() - began)))
        except ConsulUnavailableError:
            pass
        else:
            return
    await asyncio.sleep(max(0.0, wait_s - (time.monotonic() - began)))

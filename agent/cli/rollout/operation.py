"""
The commands that move a rollout: write it, follow it, and end with what an operator should know.

Each of them is one transaction; everything after it only looks, and may be interrupted.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import typer

from agent.adapters.consul.fleet import FleetReading
from agent.adapters.consul.fleet_snapshot import look
from agent.adapters.consul.history import read_rollout
from agent.cli.connect import Session, open_session
from agent.cli.exits import BusyError, Exit
from agent.cli.options import Access, Goal, Patience
from agent.cli.rollout.follower import Follower, Output, output
from agent.cli.rollout.progress import Aim, Followed, Verdict, how_to_come_back, waiting_words
from agent.cli.rollout.submit import Given, give
from agent.cli.views.fleet import FleetView, view_of
from agent.cli.views.text import clean
from agent.core.model.durations import parse_duration
from agent.core.model.errors import PermanentError, TidegateError
from agent.core.model.record import Phase
from agent.core.rollout import commands
from agent.core.rollout.change import Change
from agent.core.rollout.commands import InProgressError, Signature
from agent.core.rollout.decision import Decision, Request
from agent.core.rollout.strategy import Strategy

LINES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Wish:
    """A new rollout, and what to do where another one is in progress."""

    request: Request
    strategy: Strategy
    queue: bool = False
    supersede: bool = False


@dataclass(slots=True)
class Errand:
    """One command from its write to its end."""

    session: Session
    by: Signature
    patience: Patience
    out: Output
    as_json: bool = False
    until: float = float("inf")
    """Monotonic seconds at which ``--timeout`` is over; infinite before the rollout's own bound is known."""
    record: Decision | None = None
    """What was written; None before."""
    view: FleetView | None = field(default=None)

    async def begin(self, wish: Wish) -> Verdict:
        """Deploy, where needed after another rollout has ended."""
        while True:
            try:
                self._took(await give(self.session, lambda seen: _deploy(seen, wish, self.by), self.by))
                return Verdict(Exit.DONE, Phase.PENDING, "begun")
            except InProgressError as exc:
                if not (wish.queue or wish.supersede):
                    raise BusyError(clean(str(exc))) from exc
                if (late := await self._outlive(exc.record, wish)) is not None:
                    return late

    async def command(self, change: Callable[[FleetReading], Change]) -> None:
        """Write what a command changes in the rollout in progress."""
        self._took(await give(self.session, change, self.by))

    async def follow(self, goal: Goal, aim: Aim = Aim.FORWARD) -> Verdict:
        """Follow what was written."""
        assert self.record is not None
        if self.until == float("inf"):
            self.until = time.monotonic() + self.record.strategy.longest_s()
        return await self._follow(Followed(self.record.generation, goal, aim), self.record.seq)

    async def _outlive(self, other: Decision, wish: Wish) -> Verdict | None:
        """Wait for the end of another rollout; return a verdict only where time is over before."""
        named = f"rollout {other.generation} by {other.author or 'nobody named'} ({other.phase})"
        if wish.supersede:
            if not other.is_before_commit:
                raise BusyError(clean(str(InProgressError(other))))
            await self._supersede(named)
        else:
            self.out.tell(clean(f"{named} is in progress: waits for its end"))
        aim = Aim.BACK if wish.supersede else Aim.FORWARD
        end = await self._follow(Followed(other.generation, Goal.DONE, aim), other.seq + 1)
        if end.code is not Exit.TIMED_OUT:
            self.out.tell(end.words)
            return None
        return Verdict(Exit.TIMED_OUT, end.phase, f"{end.words}. Nothing was deployed")

    async def _supersede(self, named: str) -> None:
        why = Signature(self.by.author, f"superseded{f': {self.by.reason}' if self.by.reason else ''}", self.by.at)
        self.out.tell(clean(f"{named} is aborted first"))
        try:
            await give(self.session, lambda seen: commands.abort(seen.keys, why), why)
        except PermanentError as exc:
            self.out.tell(
                clean(str(exc))
            )  # it has ended, or is being taken back, or has just committed: looked at next

    async def _follow(self, followed: Followed, since: int) -> Verdict:
        follower = Follower(self.session, self.out, followed, self.until, since)
        try:
            return await follower.run()
        finally:
            self.view = follower.view or self.view

    def _took(self, given: Given[FleetReading]) -> None:
        self.record = given.record


def _deploy(seen: FleetReading, wish: Wish, by: Signature) -> Change:
    return commands.deploy(seen.keys, seen.reports.values(), wish.request, wish.strategy, by)


Doing = Callable[[Errand], Awaitable[Verdict]]


def run(access: Access, patience: Patience, reason: str, doing: Doing) -> None:
    """
    Do an errand with all that surrounds it: session, screen, interruption, and the last words.

    Raises:
        typer.Exit: always, with the code.
    """
    timeout = _timeout(patience)
    errand: Errand | None = None

    async def whole(out: Output) -> Verdict:
        nonlocal errand
        async with open_session(access) as session:
            by = Signature(session.author, reason, time.time())
            errand = Errand(session, by, patience, out, access.as_json, time.monotonic() + timeout)
            verdict = await doing(errand)
            return await _with_lines(errand, verdict)

    try:
        with output(as_json=access.as_json) as out:
            verdict = asyncio.run(whole(out))
    except KeyboardInterrupt:
        verdict = _interrupted(errand)
    except TidegateError as exc:
        if errand is not None and errand.record is not None:
            exc.add_note(_come_back(errand))
        raise
    _print(access, errand, verdict)
    raise typer.Exit(verdict.code)


def written(errand: Errand, what: str) -> Verdict:
    """Return the end of a command that does not follow."""
    assert errand.record is not None
    return Verdict(Exit.DONE, errand.record.phase, what)


async def warn_without_coordinator(errand: Errand) -> None:
    """Say at once that nothing will happen."""
    view, _ = view_of(await look(errand.session.client, errand.session.app))
    errand.view = view
    if not view.has_coordinator:
        errand.out.tell(view.coordinator)


async def _with_lines(errand: Errand, verdict: Verdict) -> Verdict:
    """Add the last log lines of what failed, from the history, else from the hosts' reports."""
    if not verdict.wants_lines or errand.record is None:
        return verdict
    lines: tuple[str, ...] = ()
    try:
        found = await read_rollout(errand.session.client, errand.session.app, errand.record.generation)
        lines = found.lines if found else ()
    except TidegateError:
        lines = ()
    if not lines and errand.view is not None:
        lines = next((row.lines for row in errand.view.rows if row.lines), ())
    if not lines:
        return verdict
    told = "\n".join(f"  {clean(line)}" for line in lines[-LINES_SHOWN:])
    return Verdict(verdict.code, verdict.phase, f"{verdict.words}\nlast log lines:\n{told}")


def _interrupted(errand: Errand | None) -> Verdict:
    if errand is None or errand.record is None:
        words = "interrupted before anything was known to be written: `tidegate status` shows whether a rollout began"
        return Verdict(Exit.INTERRUPTED, "unknown", words)
    return Verdict(Exit.INTERRUPTED, errand.record.phase, _come_back(errand))


def _come_back(errand: Errand) -> str:
    assert errand.record is not None
    record = errand.view.record if errand.view and errand.view.record else errand.record
    return how_to_come_back(errand.session.app, record, errand.record.generation)


def _print(access: Access, errand: Errand | None, verdict: Verdict) -> None:
    words = verdict.words
    if verdict.code is Exit.TIMED_OUT and errand is not None and errand.record is not None:
        words += f"\n{_come_back(errand)}"
    if access.as_json:
        typer.echo(json.dumps(_document(errand, verdict, words)))
    else:
        typer.echo(words, err=verdict.code is not Exit.DONE)


def _document(errand: Errand | None, verdict: Verdict, words: str) -> dict[str, Any]:
    record = errand.record if errand else None
    return {
        "app": errand.session.app if errand else None,
        "generation": record.generation if record else None,
        "image": record.request.image if record and record.request else None,
        "phase": verdict.phase,
        "code": int(verdict.code),
        "outcome": verdict.code.name.lower(),
        "words": words,
        "waits": waiting_words(errand.view) if errand and errand.view and verdict.code is Exit.TIMED_OUT else None,
    }


def _timeout(patience: Patience) -> float:
    if patience.timeout is None:
        return float("inf")
    try:
        return parse_duration(float(patience.timeout) if patience.timeout.isdecimal() else patience.timeout)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--timeout") from exc

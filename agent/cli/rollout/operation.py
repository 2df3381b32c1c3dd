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
from agent.adapters.consul.fleet_snapshot import snapshot
from agent.adapters.consul.history import read_rollout
from agent.cli.connect import Session, open_session
from agent.cli.exit_codes import BusyError, Exit
from agent.cli.options import ConsulOptions, Timeouts, WaitUntil
from agent.cli.rollout.follower import Follower, Output, output
from agent.cli.rollout.progress import CommandResult, Direction, Followed, how_to_come_back, waiting_text
from agent.cli.rollout.submit import Submitted, submit_for_fleet
from agent.cli.views.fleet import FleetView, view_of
from agent.cli.views.text import clean
from agent.core.model.durations import parse_duration
from agent.core.model.errors import PermanentError, TidegateError
from agent.core.model.record import Phase
from agent.core.rollout import commands
from agent.core.rollout.change import Change
from agent.core.rollout.commands import CommandAuthor, InProgressError
from agent.core.rollout.decision import Decision, Request
from agent.core.rollout.strategy import Strategy

LINES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """A new rollout, and what to do where another one is in progress."""

    request: Request
    strategy: Strategy
    queue: bool = False
    supersede: bool = False


@dataclass(slots=True)
class RolloutOperation:
    """One command from its write to its end."""

    session: Session
    by: CommandAuthor
    timeouts: Timeouts
    out: Output
    as_json: bool = False
    until: float = float("inf")
    """Monotonic seconds at which ``--timeout`` is over; infinite before the rollout's own bound is known."""
    record: Decision | None = None
    """What was written; None before."""
    view: FleetView | None = field(default=None)

    async def begin(self, request: DeployRequest) -> CommandResult:
        """Deploy, where needed after another rollout has ended."""
        while True:
            try:
                self._took(await submit_for_fleet(self.session, lambda seen: _deploy(seen, request, self.by), self.by))
                return CommandResult(Exit.DONE, Phase.PENDING, "begun")
            except InProgressError as exc:
                if not (request.queue or request.supersede):
                    raise BusyError(clean(str(exc))) from exc
                if (late := await self._outlive(exc.record, request)) is not None:
                    return late

    async def command(self, change: Callable[[FleetReading], Change]) -> None:
        """Write what a command changes in the rollout in progress."""
        self._took(await submit_for_fleet(self.session, change, self.by))

    async def follow(self, wait_until: WaitUntil, direction: Direction = Direction.FORWARD) -> CommandResult:
        """Follow what was written."""
        assert self.record is not None
        if self.until == float("inf"):
            self.until = time.monotonic() + self.record.strategy.longest_s()
        return await self._follow(Followed(self.record.generation, wait_until, direction), self.record.seq)

    async def _outlive(self, other: Decision, request: DeployRequest) -> CommandResult | None:
        """Wait for the end of another rollout; return a verdict only where time is over before."""
        named = f"rollout {other.generation} by {other.author or 'nobody named'} ({other.phase})"
        if request.supersede:
            if not other.is_before_commit:
                raise BusyError(clean(str(InProgressError(other))))
            await self._supersede(named)
        else:
            self.out.tell(clean(f"{named} is in progress: waits for its end"))
        direction = Direction.BACK if request.supersede else Direction.FORWARD
        end = await self._follow(Followed(other.generation, WaitUntil.DONE, direction), other.seq + 1)
        if end.code is not Exit.TIMED_OUT:
            self.out.tell(end.text)
            return None
        return CommandResult(Exit.TIMED_OUT, end.phase, f"{end.text}. Nothing was deployed")

    async def _supersede(self, named: str) -> None:
        why = CommandAuthor(self.by.author, f"superseded{f': {self.by.reason}' if self.by.reason else ''}", self.by.at)
        self.out.tell(clean(f"{named} is aborted first"))
        try:
            await submit_for_fleet(self.session, lambda seen: commands.abort(seen.keys, why), why)
        except PermanentError as exc:
            self.out.tell(
                clean(str(exc))
            )  # it has ended, or is being taken back, or has just committed: looked at next

    async def _follow(self, followed: Followed, since: int) -> CommandResult:
        follower = Follower(self.session, self.out, followed, self.until, since)
        try:
            return await follower.run()
        finally:
            self.view = follower.view or self.view

    def _took(self, submitted: Submitted[FleetReading]) -> None:
        self.record = submitted.record


def _deploy(seen: FleetReading, request: DeployRequest, by: CommandAuthor) -> Change:
    return commands.deploy(seen.keys, seen.reports.values(), request.request, request.strategy, by)


Doing = Callable[[RolloutOperation], Awaitable[CommandResult]]


def run(consul_options: ConsulOptions, timeouts: Timeouts, reason: str, doing: Doing) -> None:
    """
    Do an errand with all that surrounds it: session, screen, interruption, and the last words.

    Raises:
        typer.Exit: always, with the code.
    """
    timeout = _timeout(timeouts)
    operation: RolloutOperation | None = None

    async def whole(out: Output) -> CommandResult:
        nonlocal operation
        async with open_session(consul_options) as session:
            by = CommandAuthor(session.author, reason, time.time())
            operation = RolloutOperation(session, by, timeouts, out, consul_options.as_json, time.monotonic() + timeout)
            result = await doing(operation)
            return await _with_lines(operation, result)

    try:
        with output(as_json=consul_options.as_json) as out:
            result = asyncio.run(whole(out))
    except KeyboardInterrupt:
        result = _interrupted(operation)
    except TidegateError as exc:
        if operation is not None and operation.record is not None:
            exc.add_note(_come_back(operation))
        raise
    _print(consul_options, operation, result)
    raise typer.Exit(result.code)


def written(operation: RolloutOperation, what: str) -> CommandResult:
    """Return the end of a command that does not follow."""
    assert operation.record is not None
    return CommandResult(Exit.DONE, operation.record.phase, what)


async def warn_without_coordinator(operation: RolloutOperation) -> None:
    """Say at once that nothing will happen."""
    view, _ = view_of(await snapshot(operation.session.client, operation.session.app))
    operation.view = view
    if not view.has_coordinator:
        operation.out.tell(view.coordinator)


async def _with_lines(operation: RolloutOperation, result: CommandResult) -> CommandResult:
    """Add the last log lines of what failed, from the history, else from the hosts' reports."""
    if not result.wants_lines or operation.record is None:
        return result
    lines: tuple[str, ...] = ()
    try:
        found = await read_rollout(operation.session.client, operation.session.app, operation.record.generation)
        lines = found.lines if found else ()
    except TidegateError:
        lines = ()
    if not lines and operation.view is not None:
        lines = next((row.lines for row in operation.view.rows if row.lines), ())
    if not lines:
        return result
    told = "\n".join(f"  {clean(line)}" for line in lines[-LINES_SHOWN:])
    return CommandResult(result.code, result.phase, f"{result.text}\nlast log lines:\n{told}")


def _interrupted(operation: RolloutOperation | None) -> CommandResult:
    if operation is None or operation.record is None:
        text = "interrupted before anything was known to be written: `tidegate status` shows whether a rollout began"
        return CommandResult(Exit.INTERRUPTED, "unknown", text)
    return CommandResult(Exit.INTERRUPTED, operation.record.phase, _come_back(operation))


def _come_back(operation: RolloutOperation) -> str:
    assert operation.record is not None
    record = operation.view.record if operation.view and operation.view.record else operation.record
    return how_to_come_back(operation.session.app, record, operation.record.generation)


def _print(consul_options: ConsulOptions, operation: RolloutOperation | None, result: CommandResult) -> None:
    text = result.text
    if result.code is Exit.TIMED_OUT and operation is not None and operation.record is not None:
        text += f"\n{_come_back(operation)}"
    if consul_options.as_json:
        typer.echo(json.dumps(_document(operation, result, text)))
    else:
        typer.echo(text, err=result.code is not Exit.DONE)


def _document(operation: RolloutOperation | None, result: CommandResult, text: str) -> dict[str, Any]:
    record = operation.record if operation else None
    return {
        "app": operation.session.app if operation else None,
        "generation": record.generation if record else None,
        "image": record.request.image if record and record.request else None,
        "phase": result.phase,
        "code": int(result.code),
        "outcome": result.code.name.lower(),
        "words": text,
        "waits": waiting_text(operation.view)
        if operation and operation.view and result.code is Exit.TIMED_OUT
        else None,
    }


def _timeout(timeouts: Timeouts) -> float:
    if timeouts.timeout is None:
        return float("inf")
    try:
        return parse_duration(float(timeouts.timeout) if timeouts.timeout.isdecimal() else timeouts.timeout)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--timeout") from exc

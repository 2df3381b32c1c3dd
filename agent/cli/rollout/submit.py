"""
Submit a command's change as one check-and-set transaction, and detect whether a lost answer was ours.

Whether a write of ours happened is read from its audit entry: nobody else writes that text under that key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from agent.adapters.consul.fleet import FleetReading, read_fleet, write_change
from agent.adapters.consul.kv import Consistency, ConsulClient
from agent.adapters.consul.wire import TxnConflict, TxnDenied, TxnDone
from agent.cli.connect import Session
from agent.core.model import keys
from agent.core.model.errors import ConsulUnavailableError, PermanentError, TransientError
from agent.core.model.names import AppName
from agent.core.rollout.change import Change, Indexes, Write, writes_of
from agent.core.rollout.commands import CommandAuthor
from agent.core.rollout.decision import Decision

ATTEMPTS = 6
PAUSE_S = 0.5

Sleep = Callable[[float], Awaitable[None]]


class Basis(Protocol):
    """What a command decides on."""

    @property
    def indexes(self) -> Indexes:
        """ModifyIndexes for the guards of the write."""


R = TypeVar("R", bound=Basis)


@dataclass(frozen=True, slots=True)
class Submitted(Generic[R]):
    """A command that was written."""

    record: Decision
    reading: R
    """What it followed from."""


async def submit_for_fleet(
    session: Session, command: Callable[[FleetReading], Change], by: CommandAuthor, *, sleep: Sleep = asyncio.sleep
) -> Submitted[FleetReading]:
    """Read the fleet, decide and write; see :func:`submit`."""
    return await submit(session, read_fleet, command, by, sleep=sleep)


async def submit(
    session: Session,
    read: Callable[[ConsulClient, AppName], Awaitable[R]],
    command: Callable[[R], Change],
    by: CommandAuthor,
    *,
    sleep: Sleep = asyncio.sleep,
) -> Submitted[R]:
    """
    Read, decide and write; again where somebody else was faster.

    Args:
        session: for which app, with whose token.
        read: reads what *command* decides on; its errors end the command, but for an outage.
        command: what to write, from what was read; raises what the operator shall read instead.
        by: who commands; the same at each attempt, so that an attempt whose answer was lost is known again.
        sleep: between attempts.

    Raises:
        TransientError: Consul gives no usable answer, or others were faster each time.
        PermanentError: the token may not, or *command* refused.
    """
    tried: list[tuple[Change, Sequence[Write]]] = []
    problem: TransientError | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            await sleep(PAUSE_S * attempt)
        try:
            reading = await read(session.client, session.app)
            if (done := await _happened(session, tried)) is not None:
                return Submitted(done.record, reading)
            change = command(reading)
            writes = writes_of(session.app, change, reading.indexes, by=by.author, now=by.at)
            tried.append((change, writes))
            match await write_change(session.client, session.app, writes):
                case TxnDone():
                    return Submitted(change.record, reading)
                case TxnDenied(what=what):
                    raise PermanentError(f"the token may not write {_written(writes)}: {what}")
                case TxnConflict(what=what):
                    problem = TransientError(f"the keys of {session.app} kept changing meanwhile ({what}): try again")
        except ConsulUnavailableError as exc:
            problem = exc
    assert problem is not None
    unknown = " Whether it was written is not known: look with `tidegate status`" if tried else ""
    raise TransientError(f"{problem}.{unknown}" if unknown else str(problem)) from problem


async def _happened(session: Session, tried: list[tuple[Change, Sequence[Write]]]) -> Change | None:
    """Return the attempt that was written though its answer was lost or taken for a refusal."""
    for change, writes in tried:
        key = keys.history(session.app, change.record.generation, change.record.seq)
        entry = await session.client.get(key, consistency=Consistency.CONSISTENT)
        if entry is not None and any(write.key == key and write.value == entry.value for write in writes):
            return change
    return None


def _written(writes: Sequence[Write]) -> str:
    return " and ".join(write.key for write in writes)

"""
One look at an app's fleet in Consul, for people: what cannot be read is noted instead of ending the command.

Decisions are made on :func:`agent.adapters.consul.fleet.read_fleet` in its strict mode; this is its tolerant one.
"""

import time
from dataclasses import dataclass

from agent.adapters.consul.fleet import FleetReading, read_fleet
from agent.adapters.consul.kv import Consistency, ConsulClient
from agent.adapters.consul.services import Instance
from agent.core.model import keys
from agent.core.model.errors import ConsulForbiddenError, PermanentError
from agent.core.model.names import AppName
from agent.core.rollout.decision import Decision
from agent.core.rollout.lock import holder_of


@dataclass(frozen=True, slots=True)
class Lock:
    """Who coordinates, by the lock."""

    holder: str
    epoch: int


@dataclass(frozen=True, slots=True, repr=False)  # asyncio.run() would print the whole of it into an error it drops
class FleetSnapshot:
    """What Consul shows of an app's fleet at one time."""

    app: AppName
    reading: FleetReading
    at: float
    """Unix seconds of this machine."""
    lock: Lock | None = None
    """None: no session holds the coordinators' lock."""
    is_lock_known: bool = True
    """Whether the token may read the lock."""
    notes: tuple[str, ...] = ()
    """What could not be read."""

    @property
    def record(self) -> Decision | None:
        """The rollout record; None where there is none that can be read (see :attr:`notes`)."""
        try:
            return self.reading.record
        except PermanentError:
            return None

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Every agent of the catalog, alive or not, of whichever app."""
        return self.reading.instances

    @property
    def is_empty(self) -> bool:
        """Whether Consul knows nothing of the app: no host reports, no agent lives, nothing is recorded."""
        reading = self.reading
        recorded = (reading.keys.active, reading.keys.stage, reading.keys.rollout)
        return not (reading.reports or reading.live or any(each != keys.ABSENT for each in recorded))


async def snapshot(client: ConsulClient, app: AppName, consistency: Consistency = Consistency.DEFAULT) -> FleetSnapshot:
    """
    Read what there is.

    Raises:
        ConsulForbiddenError: the token may not read the app's keys.
        ConsulUnavailableError: no usable answer.
    """
    notes: list[str] = []
    reading = await read_fleet(client, app, consistency, on_gap=lambda gap: notes.append(str(gap)))
    lock, is_lock_known = await _lock(client, app, notes)
    try:
        reading.record  # noqa: B018 - only whether it can be read
    except PermanentError as exc:
        notes.append(str(exc))
    return FleetSnapshot(app, reading, time.time(), lock, is_lock_known, (*notes, *reading.notes))


async def _lock(client: ConsulClient, app: AppName, notes: list[str]) -> tuple[Lock | None, bool]:
    try:
        held = holder_of(await client.get(keys.coordinator(app)))
    except ConsulForbiddenError:
        notes.append(f"the token may not read {keys.coordinator(app)}: who coordinates is not known")
        return None, False
    return None if held is None else Lock(held.node or "somebody unnamed", held.epoch), True

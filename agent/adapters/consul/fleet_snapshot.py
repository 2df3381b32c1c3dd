"""
One look at an app's fleet in Consul, for people: what cannot be read is noted instead of ending the command.

Decisions are made on :func:`agent.adapters.consul.fleet.read_fleet`, which refuses to guess; this is for showing.
"""

import time
from dataclasses import dataclass

from agent.adapters.consul.fleet import FleetReading, assemble, read_keys, read_members
from agent.adapters.consul.kv import Consistency, ConsulClient
from agent.adapters.consul.services import AGENT_SERVICE, Instance, Instances, health_service
from agent.core.model import keys
from agent.core.model.errors import ConsulForbiddenError, PermanentError
from agent.core.model.keys import KeyValue
from agent.core.model.names import AppName, NodeName
from agent.core.rollout.decision import Decision
from agent.core.rollout.lock import holder_of


@dataclass(frozen=True, slots=True)
class Lock:
    """Who coordinates, by the lock."""

    holder: str
    epoch: int


@dataclass(frozen=True, slots=True, repr=False)  # asyncio.run() would print the whole of it into an error it drops
class Look:
    """What Consul shows of an app's fleet at one time."""

    app: AppName
    reading: FleetReading
    at: float
    """Unix seconds of this machine."""
    instances: tuple[Instance, ...] = ()
    """Every agent of the catalog, alive or not, of whichever app."""
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
    def is_empty(self) -> bool:
        """Whether Consul knows nothing of the app: no host reports, no agent lives, nothing is recorded."""
        reading = self.reading
        recorded = (reading.keys.active, reading.keys.stage, reading.keys.rollout)
        return not (reading.reports or reading.live or any(each != keys.ABSENT for each in recorded))


async def look(client: ConsulClient, app: AppName, consistency: Consistency = Consistency.DEFAULT) -> Look:
    """
    Read what there is.

    Raises:
        ConsulForbiddenError: the token may not read the app's keys.
        ConsulUnavailableError: no usable answer.
    """
    snapshot = await read_keys(client, app, consistency)
    notes: list[str] = []
    members: tuple[NodeName, ...] = ()
    try:
        members = await read_members(client, app, snapshot, consistency)
    except PermanentError as exc:
        notes.append(str(exc))
    reports = await _reports(client, app, consistency, notes)
    found = await _agents(client, notes)
    lock, is_lock_known = await _lock(client, app, notes)
    reading = assemble(app, snapshot, members, reports, found)
    try:
        reading.record  # noqa: B018 - only whether it can be read
    except PermanentError as exc:
        notes.append(str(exc))
    return Look(app, reading, time.time(), found.instances, lock, is_lock_known, (*notes, *reading.notes))


async def _lock(client: ConsulClient, app: AppName, notes: list[str]) -> tuple[Lock | None, bool]:
    try:
        held = holder_of(await client.get(keys.coordinator(app)))
    except ConsulForbiddenError:
        notes.append(f"the token may not read {keys.coordinator(app)}: who coordinates is not known")
        return None, False
    return None if held is None else Lock(held.node or "somebody unnamed", held.epoch), True


async def _reports(
    client: ConsulClient, app: AppName, consistency: Consistency, notes: list[str]
) -> tuple[KeyValue, ...]:
    prefix = keys.node_reports(app)
    listing = await client.list(prefix, consistency=consistency)
    forbidden = f"the token may not read all of {prefix}: hosts may be missing here"
    if listing.is_filtered:
        notes.append(forbidden)
    if not listing.entries:
        try:
            await client.get(prefix, consistency=consistency)
        except ConsulForbiddenError:
            notes.append(forbidden)
    return listing.entries


async def _agents(client: ConsulClient, notes: list[str]) -> Instances:
    try:
        found = await health_service(client, AGENT_SERVICE)
    except ConsulForbiddenError:
        found = Instances((), 0, is_filtered=True)
    if found.is_filtered or not found.instances:
        notes.append(f"no {AGENT_SERVICE} is shown: none is registered, or the token may not read services and nodes")
    return found

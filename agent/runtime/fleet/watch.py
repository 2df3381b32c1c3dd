"""
Watches one app's fleet for its coordinator: desired keys, reports and catalog, each by its own blocking query.

Reports change by the hundred while a fleet stages: they are read at most once a second.
What is known is put together anew at each look; hosts are seen to go by this watch's own clock.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from agent.adapters.consul.fleet import FleetReading, assemble, read_fleet, read_keys, read_members
from agent.adapters.consul.kv import Block, Consistency, ConsulClient, Listing
from agent.adapters.consul.services import AGENT_SERVICE, Instances
from agent.adapters.consul.visibility import list_instances, list_keys
from agent.adapters.consul.watch import Pace, TokenBucket, next_index, watch
from agent.core.model import keys
from agent.core.model.errors import PermanentError, TidegateError
from agent.core.model.keys import Invalid, KeySnapshot, KeyValue, Known, Outcome, Present
from agent.core.model.names import AppName, ImageReference, NodeName
from agent.core.model.record import read_record
from agent.core.rollout.fleet import Fleet, Resolution
from agent.core.rollout.liveness import Liveness, track_liveness

NOT_READ_YET = "the fleet was not read yet"


class _Indexed(Protocol):
    @property
    def index(self) -> int: ...


T = TypeVar("T", bound=_Indexed)


@dataclass(slots=True)
class FleetWatch:
    """What is known of a fleet; :meth:`run` keeps it up to date."""

    client: ConsulClient
    app: AppName
    node: NodeName
    """Of the coordinator: it must find itself in the catalog, or the catalog hides something."""
    on_change: Callable[[], None]
    pace: Pace = field(default_factory=Pace)
    _keys: KeySnapshot | None = None
    _is_stale: bool = False
    """What is known of the keys may not be what Consul holds: it is read consistently before it counts again."""
    _members: dict[int, tuple[NodeName, ...]] = field(default_factory=dict)
    """By generation: at most the last one."""
    _reports: Listing | None = None
    _catalog: Instances | None = None
    _liveness: Liveness = field(default_factory=Liveness)
    _problems: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(watch(self.client, self.app, self._take_keys, pace=self.pace), name="fleet keys")
            group.create_task(self._follow("reports", self._read_reports, self._take_reports), name="fleet reports")
            group.create_task(self._follow("catalog", self._read_catalog, self._take_catalog), name="fleet catalog")

    @property
    def problem(self) -> str:
        """Why the fleet is not known; empty when it is."""
        if self._problems:
            return "; ".join(problem for _, problem in sorted(self._problems.items()))
        if self._keys is None or self._reports is None or self._catalog is None:
            return NOT_READ_YET
        return ""

    async def reading(self) -> FleetReading | None:
        """
        Return what is known now; None while a part of it is not (see :attr:`problem`).

        Raises:
            TidegateError: what was in doubt, or the list of members, could not be read.
        """
        if self._is_stale:
            before = self._keys
            self._mark_current(before, await read_keys(self.client, self.app))
        if self.problem or self._keys is None or self._reports is None or self._catalog is None:
            return None
        members = await self._members_of(self._keys)
        return assemble(self.app, self._keys, members, self._reports.entries, self._catalog)

    async def reading_anew(self) -> FleetReading:
        """Read everything in Consul's consistent mode, and keep it. Raises as :func:`read_fleet`."""
        before = self._keys
        reading = await read_fleet(self.client, self.app, Consistency.CONSISTENT)
        self._mark_current(before, reading.keys)
        return reading

    def invalidate(self) -> None:
        """Let the keys be read consistently before they count again: a write was refused, or its answer lost."""
        self._is_stale = True

    def apply(self, snapshot: KeySnapshot, members: tuple[NodeName, ...] | None = None) -> None:
        """Take what was just written, unless the watch was faster; *members* only where they were written, too."""
        if self._keys is None or snapshot.index >= self._keys.index:
            self._keys = snapshot
        if members is not None and (generation := _generation(snapshot)) is not None:
            self._members = {generation: members}

    def _mark_current(self, before: KeySnapshot | None, snapshot: KeySnapshot) -> None:
        """Take what was read consistently, unless the watch delivered something newer meanwhile."""
        if self._keys is before or self._keys is None or self._keys.index < snapshot.index:
            self._keys = snapshot
        self._is_stale, self._members = False, {}

    def fleet(self, reading: FleetReading, resolution: Resolution | None, *, is_consistent: bool = False) -> Fleet:
        """Return the fleet as a decision needs it."""
        self._liveness, hosts = track_liveness(self._liveness, reading.live, reading.reports, self.pace.clock.now())
        active = reading.keys.active
        return Fleet(
            hosts=hosts,
            members=reading.members,
            active=ImageReference(active.value) if isinstance(active, Present) else None,
            resolution=resolution,
            is_consistent=is_consistent,
            active_problem=active.reason if isinstance(active, Invalid) else "",
        )

    def reports_of_gone(self, seconds: float) -> tuple[KeyValue, ...]:
        """Return the reports, as Consul holds them, of hosts that have not been seen alive for so long."""
        prefix, now = keys.node_reports(self.app), self.pace.clock.now()
        gone = {prefix + node for node, since in self._liveness.gone.items() if now - since >= seconds}
        return tuple(entry for entry in (self._reports.entries if self._reports else ()) if entry.key in gone)

    async def _members_of(self, snapshot: KeySnapshot) -> tuple[NodeName, ...]:
        generation = _generation(snapshot)
        if generation is None:
            return ()
        if generation not in self._members:
            self._members = {generation: await read_members(self.client, self.app, snapshot)}
        return self._members[generation]

    def _take_keys(self, outcome: Outcome) -> None:
        if isinstance(outcome, Known):
            self._problems.pop("keys", None)
            # A lower index: an answer that was under way while something newer was written, or a restored snapshot.
            self._is_stale |= self._keys is not None and outcome.snapshot.index < self._keys.index
            if not self._is_stale:
                self._keys = outcome.snapshot
        else:
            self._problems["keys"] = outcome.reason
        self.on_change()

    async def _read_reports(self, block: Block | None) -> Listing:
        return (await list_keys(self.client, keys.node_reports(self.app), block=block)).whole()

    def _take_reports(self, listing: Listing) -> None:
        self._reports = listing

    async def _read_catalog(self, block: Block | None) -> Instances:
        return (await list_instances(self.client, AGENT_SERVICE, block=block, may_be_empty=True)).whole()

    def _take_catalog(self, instances: Instances) -> None:
        self._catalog = instances
        # Whatever its health: a list that leaves this agent out may leave out hosts as well.
        if any(instance.meta.get("node") == self.node for instance in instances.instances):
            self._problems.pop("self", None)
        else:
            self._problems["self"] = "the catalog does not show this agent: not registered yet, or no right to read it"

    async def _follow(self, name: str, read: Callable[[Block | None], Awaitable[T]], take: Callable[[T], None]) -> None:
        bucket, index, backoff = TokenBucket(self.pace), 0, self.pace.backoff()
        while True:
            await bucket.take()
            try:
                got = await read(Block(index, self.pace.wait_s, self.pace.grace_s) if index else None)
            except TidegateError as exc:
                self._problems[name] = str(exc)
                self.on_change()
                await self.pace.clock.sleep(backoff.next())
                index = 0
                continue
            backoff.reset()
            self._problems.pop(name, None)
            index = next_index(index, got.index)
            take(got)
            self.on_change()


def _generation(snapshot: KeySnapshot) -> int | None:
    """Return the generation of the record in *snapshot*; None where there is none that can be read."""
    try:
        return read_record(snapshot.rollout.value).generation if isinstance(snapshot.rollout, Present) else None
    except PermanentError:
        return None

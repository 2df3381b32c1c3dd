"""What a coordinator clears away, so that nothing is orphaned (L5): reports of hosts long gone, old documents."""

from dataclasses import dataclass

import structlog

from agent.adapters.consul.fleet import Fence, FleetReading
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.wire import Op, TxnDone, Verb
from agent.core.model import keys
from agent.core.model.errors import TidegateError
from agent.core.model.names import AppName
from agent.runtime.fleet.watch import FleetWatch

log = structlog.get_logger()
EVERY_S = 60.0
GONE_S = 3600.0
"""A host not seen for this long is not coming back under its report."""
HISTORY_KEPT = 100
"""Rollouts whose audit entries stay."""
AT_ONCE = 30


@dataclass(slots=True)
class Housekeeping:
    """Looks around once a minute; each removal is fenced as any write is. A fleet at rest is written nothing."""

    client: ConsulClient
    app: AppName
    watch: FleetWatch
    _at: float = float("-inf")
    _collected: int = 0
    """Generation up to which old documents are gone."""

    async def collect_garbage(self, reading: FleetReading, fence: Fence, now: float) -> None:
        """Remove what is due. Never fails: what could not be removed is tried again a minute later."""
        if now - self._at < EVERY_S:
            return
        self._at = now
        try:
            if not _is_under_way(reading):
                # Until then a report says that its host left on purpose: without it, it would count as lost.
                await self._remove_reports(fence)
                await self._remove_documents(reading, fence)
        except TidegateError as exc:
            log.warning("fleet.gc_failed", app=self.app, error=str(exc))

    async def _remove_reports(self, fence: Fence) -> None:
        # Only as they were read: a host that is back just now has written another.
        gone = self.watch.reports_of_gone(GONE_S)[:AT_ONCE]
        ops = [Op(Verb.DELETE_CAS, entry.key, index=entry.modify_index) for entry in gone]
        if ops and await self._write(ops, fence):
            log.info("fleet.gc_completed", app=self.app, reports=[entry.key.rpartition("/")[2] for entry in gone])

    async def _remove_documents(self, reading: FleetReading, fence: Fence) -> None:
        """Remove lists of members that no rollout needs any more, and audit entries of rollouts long past."""
        record = reading.record
        if record is None or record.generation <= self._collected:
            return
        listing = await self.client.list(keys.rollouts(self.app))
        ops = [Op(Verb.DELETE, entry.key) for entry in listing.entries if _of(entry.key) <= record.generation]
        # Some more than the one that is due: a generation may have been left out, or another agent been away.
        last = max(0, record.generation - HISTORY_KEPT)
        past = range(max(1, last - AT_ONCE // 2), last + 1)
        ops += [Op(Verb.DELETE_TREE, keys.history_of(self.app, generation)) for generation in past]
        if not ops or await self._write(ops[:AT_ONCE], fence):
            self._collected = record.generation

    async def _write(self, ops: list[Op], fence: Fence) -> bool:
        guard = Op(Verb.CHECK_SESSION, keys.coordinator(self.app), session=fence.session)
        result = await self.client.txn(guard, *ops)
        if not isinstance(result, TxnDone):
            log.warning("fleet.gc_failed", app=self.app, error=result.what)
        return isinstance(result, TxnDone)


def _is_under_way(reading: FleetReading) -> bool:
    return reading.record is not None and not reading.record.phase.is_terminal


def _of(key: str) -> int:
    """Return the generation in ``.../rollouts/<generation>/members``."""
    part = key.rpartition("/")[0].rpartition("/")[2]
    return int(part) if part.isdigit() else 0

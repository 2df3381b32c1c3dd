"""What a coordinator clears away, so that nothing is orphaned (L5): reports of hosts long gone, old documents."""

from dataclasses import dataclass

import structlog

from agent.adapters.consul import ConsulClient
from agent.adapters.consul_fleet import Fence
from agent.adapters.consul_wire import Op, TxnDone, Verb
from agent.core import keys
from agent.core.names import AppName
from agent.runtime.fleet_watch import FleetWatch

log = structlog.get_logger()
EVERY_S = 60.0
GONE_S = 3600.0
"""A host not seen for this long is not coming back under its report."""
HISTORY_KEPT = 100
"""Rollouts whose audit entries stay."""
AT_ONCE = 30


@dataclass(slots=True)
class Housekeeping:
    """Looks around once a minute; each removal is fenced as any write is."""

    client: ConsulClient
    app: AppName
    watch: FleetWatch
    _at: float = float("-inf")

    async def tidy(self, fence: Fence, now: float) -> None:
        """Remove what is due; raises as a transaction does."""
        if now - self._at < EVERY_S:
            return
        self._at = now
        reading = await self.watch.reading()
        if reading is None:
            return
        gone = [node for node in sorted(reading.reports) if self.watch.gone_for(node) >= GONE_S]
        ops = [Op(Verb.DELETE, keys.node_report(self.app, node)) for node in gone]
        record = reading.record
        if record is not None and record.phase.is_terminal:
            ops += await self._old_members(record.generation)
            oldest = record.generation - HISTORY_KEPT
            if oldest > 0:
                ops.append(Op(Verb.DELETE_TREE, keys.history_of(self.app, oldest)))
        if not ops:
            return
        guard = Op(Verb.CHECK_SESSION, keys.coordinator(self.app), session=fence.session)
        result = await self.client.txn(guard, *ops[:AT_ONCE])
        if isinstance(result, TxnDone) and gone:
            log.info("fleet.tidied", app=self.app, reports=[str(node) for node in gone])

    async def _old_members(self, generation: int) -> list[Op]:
        """Return the removal of lists of members that no rollout needs any more, those of *generation* included."""
        listing = await self.client.list(keys.rollouts(self.app))
        return [Op(Verb.DELETE, entry.key) for entry in listing.entries if _of(entry.key) <= generation]


def _of(key: str) -> int:
    """Return the generation in ``.../rollouts/<generation>/members``."""
    part = key.rpartition("/")[0].rpartition("/")[2]
    return int(part) if part.isdigit() else 0

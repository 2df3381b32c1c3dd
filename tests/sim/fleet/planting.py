"""Bugs that no loop takes as a parameter: planted into the shipped module for the time of one run."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent.adapters.consul.fleet import Fence, FleetReading, write_change
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.wire import TxnResult
from agent.core.model.names import AppName
from agent.core.rollout.change import Guard, Write
from agent.runtime.fleet import coordinator
from agent.runtime.fleet.housekeeping import Housekeeping
from tests.sim.fleet.coordinator import CoordinatorBug


class _Untidy(Housekeeping):
    """Clears nothing away."""

    __slots__ = ()

    async def collect_garbage(self, reading: FleetReading, fence: Fence, now: float) -> None:
        """Do nothing."""


@contextmanager
def planted(bug: CoordinatorBug) -> Iterator[None]:
    """Let the shipped coordinator write, and clear away, as *bug* says."""

    async def written(
        client: ConsulClient, app: AppName, writes: Iterable[Write], fence: Fence | None = None
    ) -> TxnResult:
        changed = bug.writes(tuple(writes))
        if not bug.is_fenced:
            changed = tuple(replace(write, guard=Guard.NONE) for write in changed)
        return await write_change(client, app, changed, fence if bug.is_fenced else None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinator, "write_change", written)
        patch.setattr(coordinator, "Housekeeping", Housekeeping if bug.tidies else _Untidy)
        yield

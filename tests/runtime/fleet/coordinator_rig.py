"""What the suites of the coordinator need: short timings, a registry, and a rollout to begin and to wait for."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agent.adapters.consul.fleet import read_fleet, write_change
from agent.adapters.consul.wire import TxnDone
from agent.core.model.errors import TidegateError
from agent.core.model.names import Digest, ImageReference
from agent.core.rollout.change import writes_of
from agent.core.rollout.commands import deploy
from agent.core.rollout.decision import Decision, Request
from agent.core.rollout.strategy import Strategy
from agent.runtime.fleet.leader import LeaseTimings
from cluster.servers.process import eventually
from tests.adapters.consul.fleet_rig import BY, FakeFleet

QUICK = LeaseTimings(ttl_s=10, renew_s=0.3, fence_s=1.0, wait_s=1.0, jitter_s=0.05, retry_s=0.1)
STRATEGY = Strategy(bake_time=0.0, drain_idle=1.0, drain_timeout=30.0, progress_deadline=20.0, min_healthy_time=0.5)
DIGEST = Digest(f"sha256:{'b' * 64}")


@dataclass(slots=True)
class Registry:
    """Answers what it is told to, one answer after another; the last one stays."""

    answers: list[Digest | TidegateError] = field(default_factory=lambda: [DIGEST])
    asked: int = 0

    async def digest(self, _: ImageReference) -> Digest:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, TidegateError):
            raise answer
        return answer


@asynccontextmanager
async def running(*tasks: object) -> AsyncIterator[None]:
    """Run what has a ``run`` beside the test."""
    async with asyncio.TaskGroup() as group:
        begun = [group.create_task(each.run()) for each in tasks]  # type: ignore[attr-defined]
        yield
        for task in begun:
            task.cancel()


async def begin(fake_fleet: FakeFleet, image: str = "shop:b", strategy: Strategy = STRATEGY) -> None:
    """Deploy as an operator does."""
    reading = await read_fleet(fake_fleet.client, fake_fleet.app)
    change = deploy(reading.keys, reading.reports.values(), Request(image=ImageReference(image)), strategy, BY)
    writes = writes_of(fake_fleet.app, change, reading.indexes, by="ann", now=time.time())
    assert isinstance(await write_change(fake_fleet.client, fake_fleet.app, writes), TxnDone)


async def ended(fake_fleet: FakeFleet, *, deadline_s: float = 20.0) -> Decision:
    """Wait for the end of the rollout."""
    last: Decision | None = None

    async def has_ended() -> bool:
        nonlocal last
        try:
            last = (await read_fleet(fake_fleet.client, fake_fleet.app)).record
        except TidegateError:
            return False
        return last is not None and last.phase.is_terminal

    assert await eventually(has_ended, deadline_s=deadline_s), last
    assert last is not None
    return last

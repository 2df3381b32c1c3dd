"""
A candidate for the coordination: the agent's shipped Leader, FleetWatch, Coordinator, Housekeeping and Resolver.

They are put together as the daemon does for a host without apps. The process may stall anywhere, also just before a
write, its clock may be wrong, and it may believe for a while that it still holds the lock.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agent.adapters.consul.presence import Presence
from agent.adapters.consul.transport import Request
from agent.core.host.build_report import Identity
from agent.core.model import keys
from agent.core.model.names import Digest, ImageReference, NodeName
from agent.core.rollout.advance import Transition, advance
from agent.core.rollout.change import Write
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet
from agent.runtime.fleet.coordinator import Coordinator
from agent.runtime.fleet.leader import Leader
from agent.runtime.fleet.registration import keep_registered
from agent.runtime.wake import WakeSignal
from tests.sim.consul.link import Link
from tests.sim.consul.transport import SimTransport, client_over
from tests.sim.fleet.names import APP
from tests.sim.virtual_time import Process, SimClock
from tests.sim.world_clock import WorldClock

_RECORD = keys.rollout(APP).encode()
Resolve = Callable[[ImageReference], Coroutine[Any, Any, Digest]]


@dataclass(slots=True)
class CoordinatorBug:
    """A bug planted into a coordinator or into what it sees."""

    advance: Callable[[Decision, Fleet, float], Transition] = advance
    sees: Callable[[Fleet], Fleet] = lambda fleet: fleet
    writes: Callable[[tuple[Write, ...]], tuple[Write, ...]] = lambda writes: writes
    is_fenced: bool = True
    contends: bool = True
    tidies: bool = True


@dataclass(slots=True, eq=False)
class SimCoordinator:
    """One candidate through all its lives."""

    name: str
    clock: WorldClock
    link: Link
    rng: random.Random
    resolve: Resolve
    crashed: Callable[[str], None]
    hung: Callable[[], None]
    """Told when it hangs before a write, as it was asked to some time before."""
    bug: CoordinatorBug = field(default_factory=CoordinatorBug)
    clock_skew_s: float = 0.0
    starts: int = 0
    is_stalling: float = 0.0
    """Stall for so long just before the next write of the record."""
    process: Process = field(init=False)
    coordinator: Coordinator = field(init=False)

    def __post_init__(self) -> None:
        self.process = Process(self.clock.loop)

    def start(self) -> None:
        """Begin a process, as after a boot; nothing where one runs."""
        if self.starts and self.process.is_alive:
            return
        self.starts += 1
        stalled_until, self.process = self.process.stalled_until, Process(self.clock.loop)
        self.process.stall(stalled_until - self.clock.now)
        sim_clock = SimClock(self.clock.loop, self.clock_skew_s)
        client, wake = client_over(SimTransport(self.link, self.name, self.name, self._before)), WakeSignal()
        node, instance = NodeName(self.name), f"{self.name}.{self.starts}"
        leader = Leader(client, APP, node, instance, partial(wake.call, "lease"), clock=sim_clock, rng=self.rng)
        self.coordinator = Coordinator(client, leader, self.resolve, wake, sim_clock, self.rng, self._advance)
        presence = Presence(client, node, 7080, is_coordinator=True)
        loops: list[Coroutine[Any, Any, object]] = [
            keep_registered(presence, Identity(node, instance, "sim"), sim_clock)
        ]
        if self.bug.contends:
            loops.append(self.coordinator.run())
        task = self.process.spawn(_together(loops))
        task.add_done_callback(partial(self._ended, self.process), context=self.clock.loop.world)

    def kill(self) -> None:
        """End it wherever it is."""
        self.process.kill()

    @property
    def session(self) -> str:
        """The session under which it leads, or believes to; empty where it does not."""
        lease = self.coordinator.leader._lease if self.process.is_alive else None
        return lease.session if lease is not None else ""

    @property
    def trusts_itself(self) -> bool:
        """Whether it may still act: the last renewal that succeeded began a short while ago."""
        return self.process.is_alive and self.coordinator.leader.lease is not None

    def _advance(self, record: Decision, fleet: Fleet, now: float) -> Transition:
        return self.bug.advance(record, self.bug.sees(fleet), now)

    async def _before(self, request: Request) -> None:
        """Hang just before a write of the record, where it is to."""
        if self.is_stalling and request.path == "/v1/txn" and _RECORD in (request.body or b""):
            self.process.stall(self.is_stalling)
            self.is_stalling = 0.0
            self.hung()
            await asyncio.sleep(0)

    def _ended(self, process: Process, task: "asyncio.Task[None]") -> None:
        if process.is_alive and not task.cancelled() and (error := task.exception()) is not None:
            self.crashed(repr(error))


async def _together(loops: "list[Coroutine[Any, Any, object]]") -> None:
    async with asyncio.TaskGroup() as group:
        for loop in loops:
            group.create_task(loop)

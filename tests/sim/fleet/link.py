"""
How a machine reaches Consul: late, with lost requests and lost answers, or not at all.

:class:`Client` has the part of :class:`agent.adapters.consul.kv.ConsulClient` that the fleet's adapter needs, so that
coordinators and commands of the simulation run the adapter itself.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from agent.adapters.consul.kv import Consistency, ConsulClient, Listing
from agent.adapters.consul.wire import Op, TxnResult
from agent.core.model.errors import ConsulUnavailableError
from agent.core.model.keys import KeyValue
from tests.sim.fleet.clock import Sleep
from tests.sim.fleet.consul import SimConsul

T = TypeVar("T")
LATENCY_S = (0.001, 0.02)
READ_TIMEOUT_S = 5.0


@dataclass(slots=True, eq=False)
class Link:
    """One machine's way to Consul."""

    consul: SimConsul
    rng: random.Random
    is_cut: bool = False
    lossy: float = 0.0
    """Share of requests, and of answers, that are lost."""
    slow_s: float = 0.0
    """Additional latency, at most."""

    @property
    def is_open(self) -> bool:
        """Whether anything gets through."""
        return not self.is_cut and not self.consul.is_away

    def latency(self) -> float:
        """Return how long one way takes now."""
        return self.rng.uniform(*LATENCY_S) + (self.rng.uniform(0, self.slow_s) if self.slow_s else 0.0)

    def loses(self) -> bool:
        """Whether the next message is lost."""
        return not self.is_open or (self.lossy > 0 and self.rng.random() < self.lossy)

    async def ask(self, question: Callable[[], T]) -> T:
        """
        Ask the servers something that may change them.

        Raises:
            ConsulUnavailableError: the request or its answer was lost; what it asked may have happened.
        """
        await Sleep(self.latency())
        if self.loses():
            await Sleep(READ_TIMEOUT_S if self.is_cut else 0.5)
            raise ConsulUnavailableError("no answer")
        answer = question()
        await Sleep(self.latency())
        if self.loses():
            await Sleep(READ_TIMEOUT_S)
            raise ConsulUnavailableError("the answer was lost")
        return answer


@dataclass(frozen=True, slots=True)
class _Client:
    link: Link
    by: str
    name: str = "the simulated Consul"

    async def get(
        self,
        key: str,
        *,
        consistency: Consistency = Consistency.DEFAULT,  # noqa: ARG002 - all reads here are consistent
    ) -> KeyValue | None:
        return await self.link.ask(lambda: self.link.consul.get(key))

    async def list(
        self,
        prefix: str,
        *,
        consistency: Consistency = Consistency.DEFAULT,  # noqa: ARG002 - all reads here are consistent
    ) -> Listing:
        consul = self.link.consul
        return await self.link.ask(lambda: Listing(consul.list(prefix), max(1, consul.index)))

    async def txn(self, *ops: Op) -> TxnResult:
        return await self.link.ask(lambda: self.link.consul.txn(ops, self.by))


def client_of(link: Link, by: str) -> ConsulClient:
    """Return what the adapter takes for a client; *by* signs its writes for the monitor."""
    return cast("ConsulClient", _Client(link, by))

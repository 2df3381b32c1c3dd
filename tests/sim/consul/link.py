"""How a machine reaches Consul: late, with lost requests and lost answers, or not at all."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from agent.core.model.errors import ConsulUnavailableError
from tests.sim.consul.servers import SimConsul, Topic

T = TypeVar("T")
LATENCY_S = (0.001, 0.02)
READ_TIMEOUT_S = 5.0
LOST_WITHIN_S = 4.0
"""A query that is blocked ends so long after its machine was cut off."""
DEAF_S = (1.0, 60.0)


@dataclass(slots=True, eq=False)
class Link:
    """One machine's way to Consul."""

    consul: SimConsul
    rng: random.Random
    is_cut: bool = False
    is_deaf: bool = False
    """Blocked queries are woken by nothing but the end of their wait."""
    lossy: float = 0.0
    """Share of requests, and of answers, that are lost."""
    slow_s: float = 0.0
    """Additional latency, at most."""
    _blocked: list["asyncio.Future[bool]"] = field(default_factory=list)

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

    def changed(self) -> None:
        """Notice a cut: what is blocked is lost some time later, unless the way is open again."""
        if not self.is_open:
            for blocked in self._blocked:
                delay_s = self.rng.uniform(0.0, LOST_WITHIN_S)
                self.consul.clock.after(delay_s, lambda blocked=blocked: self._lose(blocked))  # type: ignore[misc]

    def drop(self) -> None:
        """Lose at once what is blocked, as when the machine's own Consul agent ends."""
        for blocked in self._blocked:
            if not blocked.done():
                blocked.set_result(False)

    def _lose(self, blocked: "asyncio.Future[bool]") -> None:
        if not self.is_open and not blocked.done():
            blocked.set_result(False)

    async def ask(self, question: Callable[[], T], deadline_s: float) -> T:
        """
        Ask the servers something that may change them.

        Raises:
            ConsulUnavailableError: the request or its answer was lost; what it asked may have happened.
        """
        await asyncio.sleep(self.latency())
        if self.loses():
            await asyncio.sleep(min(READ_TIMEOUT_S if self.is_cut else 0.5, deadline_s))
            raise ConsulUnavailableError("no answer")
        answer = question()
        await asyncio.sleep(self.latency())
        if self.loses():
            await asyncio.sleep(min(READ_TIMEOUT_S, deadline_s))
            raise ConsulUnavailableError("the answer was lost")
        return answer

    async def wait(self, topic: Topic, index: int, wait_s: float) -> None:
        """
        Wait until *topic* has passed *index*, for *wait_s* at most.

        Raises:
            ConsulUnavailableError: the way was cut meanwhile.
        """
        if topic.index > index:
            return
        loop = self.consul.clock.loop
        blocked: asyncio.Future[bool] = loop.create_future()

        def answer() -> None:
            if not blocked.done():
                blocked.set_result(True)

        if self.is_deaf:
            wait_s = min(wait_s, self.rng.uniform(*DEAF_S))
        else:
            topic.waiting.append(answer)
        timer = loop.call_at(loop.time() + wait_s, answer, context=loop.world)
        self._blocked.append(blocked)
        try:
            if not await blocked:
                raise ConsulUnavailableError("the connection was lost")
        finally:
            timer.cancel()
            self._blocked.remove(blocked)
            if answer in topic.waiting:
                topic.waiting.remove(answer)

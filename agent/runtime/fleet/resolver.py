"""Asks the registry, once for each rollout, what the image that was asked for means; the answer is data."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agent.core.model.errors import TidegateError, TransientError
from agent.core.model.names import Digest, ImageReference
from agent.core.model.record import Phase
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Resolution
from agent.pacing.backoff import Backoff
from agent.pacing.clock import Clock, SystemClock

FIRST_S, MAX_S = 1.0, 30.0
"""Pauses between two questions to a registry that is away."""

Resolve = Callable[[ImageReference], Awaitable[Digest]]


@dataclass(slots=True)
class Resolver:
    """One question at a time, about the rollout that is pending; the next rollout is another question."""

    resolve: Resolve
    on_answer: Callable[[], None]
    """Called at each answer, also that the registry is away; must not block."""
    clock: Clock = field(default_factory=SystemClock)
    _generation: int = 0
    _task: asyncio.Task[None] | None = None
    _answer: Resolution | None = None

    def answer_for(self, record: Decision, group: asyncio.TaskGroup) -> Resolution | None:
        """Return what the registry said so far; *group* runs the question where it was not asked yet."""
        if record.phase is not Phase.PENDING or record.request is None:
            self.stop()
            return None
        if self._generation != record.generation:
            self.stop()
            self._generation = record.generation
            image = record.request.image
            self._task = group.create_task(self._ask(image), name=f"resolve {image}")
        return self._answer

    def stop(self) -> None:
        """Forget question and answer."""
        if self._task is not None:
            self._task.cancel()
        self._generation, self._task, self._answer = 0, None, None

    async def _ask(self, image: ImageReference) -> None:
        backoff = Backoff(FIRST_S, MAX_S)
        while True:
            try:
                self._answer = Resolution(digest=await self.resolve(image))
            except TidegateError as exc:
                self._answer = Resolution(error=str(exc), is_final=not isinstance(exc, TransientError))
            self.on_answer()
            if self._answer.digest is not None or self._answer.is_final:
                return
            await self.clock.sleep(backoff.next())

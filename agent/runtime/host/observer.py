"""One look at the host: containers, HAProxy, probes and jobs, put into the core's words."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.adapters.host.probe import Prober
from agent.core.host.observed import Container, Disk, Observed, Proxy, Unavailable
from agent.core.model.errors import TidegateError
from agent.pacing.clock import Clock, SystemClock
from agent.runtime.host.jobs import Jobs
from agent.runtime.host.ports import DockerPort, ProxyPort

LIST_AGAIN_S = 15.0
"""Containers are listed anew at the latest after this time, though Docker sent no event."""


@dataclass(slots=True)
class Observer:
    """Looks at the host; keeps the container list between Docker's events, as listing costs the daemon."""

    docker: DockerPort
    proxy: ProxyPort
    prober: Prober
    jobs: Jobs
    disk: Callable[[], Disk | None] = lambda: None
    clock: Clock = field(default_factory=SystemClock)
    _listed: tuple[Container, ...] | None = field(default=None)
    _listed_at: float = 0.0
    _changes: int = 0

    def containers_changed(self) -> None:
        """Forget the list: an event came, a job ended, or the event stream was lost."""
        self._listed = None
        self._changes += 1

    async def observe(self, *, fresh: bool = False) -> Observed:
        """
        Look at everything now.

        Jobs are looked at first, so the container list is never older than what they say: one that ends during the
        listing is still under way in this look, and has its result in the next one.

        Args:
            fresh: list containers in any case, and leave the results of jobs to the next look.
        """
        ended, under_way = None if fresh else self.jobs.take_ended(), self.jobs.under_way()
        if fresh or (ended is not None and ended.results) or under_way:
            self.containers_changed()
        containers, proxy = await asyncio.gather(self._containers(), self._proxy())
        return Observed(
            containers=containers,
            proxy=proxy,
            health=self.prober.health,
            jobs=under_way,
            images=ended.images if ended else {},
            results=ended.results if ended else (),
            disk=self.disk(),
        )

    async def _containers(self) -> tuple[Container, ...] | Unavailable:
        now = self.clock.now()
        if self._listed is not None and now - self._listed_at < LIST_AGAIN_S:
            return self._listed
        changes = self._changes
        try:
            listing = await self.docker.containers()
        except TidegateError as exc:
            return Unavailable(str(exc))
        # A list that was under way when something changed may be of before: it is used, not kept.
        if changes == self._changes:
            self._listed, self._listed_at = listing.containers, now
        return listing.containers

    async def _proxy(self) -> Proxy | Unavailable:
        try:
            return await self.proxy.observe()
        except TidegateError as exc:
            return Unavailable(str(exc))

"""How a host's report gets to Consul: as the agent's reporter does it, in virtual time."""

from dataclasses import dataclass, field

from agent.core.model import keys
from agent.core.model.errors import TidegateError
from agent.core.model.names import NodeName
from agent.core.model.report import NodeReport
from agent.runtime.host.reporter import (
    AGAIN_EVERY_S,
    MOVING_EVERY_S,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    WRITE_EVERY_S,
    is_news,
    service_text,
)
from tests.sim.fleet.clock import Clock, Process
from tests.sim.fleet.link import Link
from tests.sim.fleet.watching import APP


@dataclass(slots=True, eq=False)
class SimReporter:
    """Carries the latest report of one agent process."""

    clock: Clock
    link: Link
    process: Process
    machine: str
    latest: NodeReport | None = None
    written: NodeReport | None = None
    _written_at: float = float("-inf")
    _free_at: float = 0.0
    _registered: tuple[str, ...] = ()
    _registered_at: float = float("-inf")
    _is_busy: bool = False
    _pause: float = RETRY_FIRST_S
    _due: float = field(default=float("inf"))

    def publish(self, report: NodeReport) -> None:
        """Take the newest report."""
        if report != self.latest:
            self.latest = report
            self._plan()

    def forget(self) -> None:
        """Write and register again: Consul was away, or its state went back."""
        self.written, self._registered = None, ()
        self._plan()

    def _plan(self) -> None:
        if self._is_busy or self.latest is None or not self.process.alive:
            return
        due = max(self._due_at(self.latest), self._free_at)
        if due < self._due or self._due < self.clock.now:
            self._due = due
            self.clock.at(due, lambda: self._fire(due))

    def _due_at(self, report: NodeReport) -> float:
        words_changed = service_text(report) != self._registered
        if self.written is None or words_changed or is_news(report, self.written):
            return self.clock.now
        due = self._registered_at + AGAIN_EVERY_S
        return min(due, self._written_at + MOVING_EVERY_S) if report != self.written else due

    def _fire(self, due: float) -> None:
        if due == self._due and self.process.alive and not self._is_busy:
            self._due, self._is_busy = float("inf"), True
            self.process.spawn(self._flush())

    async def _flush(self) -> None:
        report, consul = self.latest, self.link.consul
        assert report is not None
        try:
            if report != self.written:
                text = report.model_dump_json().encode()
                await self.link.ask(lambda: consul.put(keys.node_report(APP, _node(report)), text))
                self.written, self._written_at = report, self.clock.now
            words = service_text(report)
            if words != self._registered or self.clock.now - self._registered_at >= AGAIN_EVERY_S:
                meta = {"node": report.node, "app": report.app, "instance": report.instance}
                await self.link.ask(lambda: consul.register(self.machine, meta))
                self._registered, self._registered_at = words, self.clock.now
            self._free_at, self._pause = self.clock.now + WRITE_EVERY_S, RETRY_FIRST_S
        except TidegateError:
            self._free_at = self.clock.now + self._pause
            self._pause = min(self._pause * 2, RETRY_MAX_S)
        self._is_busy = False
        self._plan()


def _node(report: NodeReport) -> NodeName:
    return NodeName(report.node)

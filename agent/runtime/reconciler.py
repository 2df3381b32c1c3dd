"""The loop of one app: observe, decide, apply, report. Level-triggered: what wakes it does not matter."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from agent.adapters.journal import Journal
from agent.adapters.probe import Prober, ProbeTarget
from agent.core.actions import CancelPull, Pull, Run, Start, Stop
from agent.core.app import App
from agent.core.decide import decide
from agent.core.draft import Situation
from agent.core.errors import TidegateError
from agent.core.judgement import BootState, Judged, judge
from agent.core.keys import Known, Outcome, Unknown
from agent.core.memory import Baseline, Memory
from agent.core.names import NodeName
from agent.core.observed import Observed, Unavailable
from agent.core.plan import Plan, ProbeOrder
from agent.core.recall import recall
from agent.core.report import HostView
from agent.runtime.executor import Executor
from agent.runtime.observer import Observer
from agent.runtime.wake import Wake

log = structlog.get_logger()
RETRY_S = 0.5
CONFIRMED_EVERY_S = 600.0
"""The journal's 'confirmed' time moves this often at most: it would be written at each reading otherwise."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How long a booting host waits for Consul, and how old a journal it goes by."""

    boot_wait_s: float
    journal_max_age_s: float


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at the host and what follows from it."""

    outcome: Outcome
    observed: Observed
    judged: Judged
    plan: Plan


@dataclass(slots=True)
class Reconciler:
    """Brings one app on this host to what is desired, tick by tick."""

    app: App
    node: NodeName
    trust: Trust
    observer: Observer
    executor: Executor
    prober: Prober
    journal: Journal
    wake: Wake
    on_view: Callable[[HostView], None]
    memory: Memory = field(default_factory=Memory)
    outcome: Outcome = field(default_factory=lambda: Unknown("Consul has not answered yet"))
    view: HostView | None = None
    ticked_at: float = field(default_factory=time.monotonic)
    _began: float = field(default_factory=time.monotonic)
    _confirmed: bool = False
    _shown: str = ""

    def read(self, outcome: Outcome) -> None:
        """Take what the watcher read; the next tick acts on it."""
        self.outcome = outcome
        self._confirmed = self._confirmed or isinstance(outcome, Known)
        self.wake.call("consul")

    def set_leaving(self, *, leaving: bool) -> None:
        """Take the host out of traffic, or back."""
        self.memory = self.memory.but(leaving=leaving)
        self.wake.call("leave" if leaving else "return")

    async def run(self) -> None:
        """Tick for ever; a tick that breaks is logged and made again."""
        while True:
            try:
                look_again_at = await self.tick()
            except TidegateError as exc:
                log.warning("tick.failed", error=str(exc))
                look_again_at = time.monotonic() + RETRY_S
            except Exception:
                log.exception("tick.broke")
                look_again_at = time.monotonic() + RETRY_S
            await self.wake.wait(look_again_at - time.monotonic())

    async def tick(self) -> float:
        """Look, decide, act, remember, report; return when to look again (monotonic seconds)."""
        look = await self._look(fresh=False)
        plan = look.plan
        failure = await self._apply(plan)
        if failure is None:
            memory = plan.memory
        else:
            # What was planned did not all happen: keep only what was seen.
            memory = recall(self.memory, look.observed, look.judged.desired, time.monotonic())
        # `leaving` is set from outside, perhaps while this tick was at work.
        self.memory = memory.but(
            baseline=_coarse(self.memory.baseline, look.judged.baseline), leaving=self.memory.leaving
        )
        await asyncio.to_thread(self.journal.save, self.memory)
        self._probe(look)
        self._publish(look, failure)
        self.ticked_at = time.monotonic()
        if failure is not None:
            return self.ticked_at + RETRY_S
        acted = any(not isinstance(action, Pull | CancelPull | Run | Start | Stop) for action in plan.actions)
        return self.ticked_at if acted else min(plan.look_again_at, self._boot_wait_ends())

    def _boot_wait_ends(self) -> float:
        """Return when a host that still waits for Consul may go by its journal; infinity afterwards."""
        at = self._began + self.trust.boot_wait_s
        return at if not self._confirmed and at > time.monotonic() else float("inf")

    async def preview(self) -> HostView:
        """Look freshly and decide, change nothing: what would be done now."""
        return self._view(await self._look(fresh=True), None)

    async def _look(self, *, fresh: bool) -> "_Look":
        observed = await self.observer.observe(fresh=fresh)
        containers = () if isinstance(observed.containers, Unavailable) else observed.containers
        now = time.monotonic()
        boot = BootState(
            is_running=any(container.is_running for container in containers),
            confirmed=self._confirmed,
            waited_s=now - self._began,
            boot_wait_s=self.trust.boot_wait_s,
            journal_max_age_s=self.trust.journal_max_age_s,
            now_wall=time.time(),
        )
        judged = judge(self.outcome, self.memory.baseline, self.node, boot)
        plan = decide(Situation(self.app, observed, judged.desired, self.memory, now))
        return _Look(self.outcome, observed, judged, plan)

    async def _apply(self, plan: Plan) -> str | None:
        """Do the plan; return what went wrong, None when nothing did."""
        if not plan.actions:
            return None
        began = time.monotonic()
        failure = None
        try:
            await self.executor.apply(plan.actions)
        except TidegateError as exc:
            failure = str(exc)
        event = log.warning if failure else log.info
        event(
            "tick.completed",
            app=self.app.name,
            actions=[str(action) for action in plan.actions],
            error=failure,
            duration_s=round(time.monotonic() - began, 4),
        )
        return failure

    def _probe(self, look: "_Look") -> None:
        listed = look.observed.containers
        if isinstance(listed, Unavailable):
            return
        started = {container.id: container.started_at for container in listed}
        self.prober.keep_only(frozenset(order.container for order in look.plan.probes))
        for order in look.plan.probes:
            self.prober.watch(order.container, self._target(order, started.get(order.container, "")))

    def _target(self, order: ProbeOrder, started_at: str) -> ProbeTarget:
        return ProbeTarget(
            address=self.app.address(order.slot),
            port=self.app.container_port,
            path=order.probe.path or self.app.health_path,
            host=self.app.hosts[0] if self.app.hosts else "",
            status=order.probe.status,
            interval_s=order.probe.interval,
            timeout_s=order.probe.timeout,
            started_at=started_at,
        )

    def _view(self, look: "_Look", failure: str | None) -> HostView:
        return HostView(self.app, look.observed, look.judged.desired, look.plan, look.outcome, failure or "")

    def _publish(self, look: "_Look", failure: str | None) -> None:
        self.view = self._view(look, failure)
        self.on_view(self.view)
        summary = self.view.summary
        if summary != self._shown:
            log.info("phase.changed", app=self.app.name, was=self._shown, now=summary)
            self._shown = summary


def _coarse(before: Baseline, after: Baseline) -> Baseline:
    """Keep the older time of confirmation while nothing else changed and it is young."""
    if before.confirmed_at_wall is None or after.confirmed_at_wall is None:
        return after
    same = before.but(confirmed_at_wall=None) == after.but(confirmed_at_wall=None)
    young = 0 <= after.confirmed_at_wall - before.confirmed_at_wall < CONFIRMED_EVERY_S
    return before if same and young else after

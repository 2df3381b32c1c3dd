"""The loop of one app: observe, decide, apply, report. Level-triggered: what wakes it does not matter."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from agent.adapters.host.probe import Prober, ProbeTarget
from agent.core.host.actions import Action, JobAction
from agent.core.host.build_report import HostView
from agent.core.host.decide import decide
from agent.core.host.memory import LastApplied, Memory
from agent.core.host.observed import Observed, Unavailable
from agent.core.host.plan import Plan, ProbeOrder, SlotView
from agent.core.host.plan_builder import DecisionInput
from agent.core.host.update_memory import update_memory
from agent.core.host.validate import BootState, Validated, validate
from agent.core.model.app import App
from agent.core.model.errors import TidegateError
from agent.core.model.keys import Known, Outcome, Unknown
from agent.core.model.names import NodeName
from agent.core.model.states import AdminState, SlotPhase
from agent.pacing.backoff import Backoff
from agent.pacing.clock import Clock, SystemClock
from agent.runtime.host.executor import Executor
from agent.runtime.host.observer import Observer
from agent.runtime.host.ports import JournalPort
from agent.runtime.wake import WakeSignal

log = structlog.get_logger()
RETRY_S, RETRY_MAX_S = 0.5, 15.0
FIRST_READING_S = 1.0
"""
A starting agent first looks when Consul has said something, be it an error, or after this time.

The journal may be of before the last step of the process before: one that died just after a switch would take it
back, and make it again a moment later.
"""
SAY_AGAIN_S = 60.0
CONFIRMED_EVERY_S = 600.0
"""The journal's 'confirmed' time moves this often at most: it would be written at each reading otherwise."""


@dataclass(frozen=True, slots=True)
class BootPolicy:
    """How long a booting host waits for Consul, and how old a journal it goes by."""

    boot_wait_s: float
    journal_max_age_s: float


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """One look at the host and what follows from it."""

    outcome: Outcome
    observed: Observed
    validated: Validated
    plan: Plan
    at: float
    """Monotonic seconds of the look."""


@dataclass(slots=True)
class Reconciler:
    """Brings one app on this host to what is desired, tick by tick."""

    app: App
    node: NodeName
    boot_policy: BootPolicy
    observer: Observer
    executor: Executor
    prober: Prober
    journal: JournalPort
    wake: WakeSignal
    on_view: Callable[[HostView], None]
    memory: Memory = field(default_factory=Memory)
    outcome: Outcome = field(default_factory=lambda: Unknown("Consul has not answered yet"))
    view: HostView | None = None
    clock: Clock = field(default_factory=SystemClock)
    validate: Callable[[Outcome, LastApplied, NodeName, BootState], Validated] = validate
    decide: Callable[[DecisionInput], Plan] = decide
    ticked_at: float = field(init=False)
    """By the clock's monotonic seconds: the end of the last tick."""
    _began: float = field(init=False)
    _has_read: asyncio.Event = field(default_factory=asyncio.Event)
    _confirmed: bool = False
    _shown: str = ""
    _done: tuple[Action, ...] = ()
    """What the last tick did."""
    _said: tuple[tuple[Action, ...], str | None] = ((), None)
    """Last logged (actions, error); rate-limits repeated failures."""
    _said_at: float = float("-inf")
    _journal_problem: str = ""

    def __post_init__(self) -> None:
        self.ticked_at = self._began = self.clock.now()

    def read(self, outcome: Outcome) -> None:
        """Take what the watcher read; the next tick acts on it."""
        self.outcome = outcome
        self._has_read.set()
        self._confirmed = self._confirmed or isinstance(outcome, Known)
        self.wake.call("consul")

    def set_leaving(self, *, leaving: bool) -> None:
        """Take the host out of traffic, or back."""
        self.memory = self.memory.replace(leaving=leaving)
        self.wake.call("leave" if leaving else "return")

    async def run(self) -> None:
        """Tick for ever; a tick that breaks is logged and made again, after a growing pause."""
        backoff = Backoff(RETRY_S, RETRY_MAX_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_READING_S):
                await self._has_read.wait()
        while True:
            try:
                look_again_at = await self.tick()
            except TidegateError as exc:
                log.warning("tick.failed", error=str(exc))
            except Exception:
                log.exception("tick.crashed")
            else:
                backoff.reset()
                await self.wake.wait(look_again_at - self.clock.now())
                continue
            await self.clock.sleep(backoff.next())

    async def tick(self) -> float:
        """Look, decide, act, remember, report; return when to look again (monotonic seconds)."""
        evaluation = await self._evaluate(fresh=False)
        plan, before = evaluation.plan, self.memory
        if evaluation.observed.results and plan.actions:
            # A job tells its result once: it is written down before anything else may go wrong.
            self.memory = _with_what_was_seen(before, evaluation)
            await self._save()
        failure = await self._apply(plan)
        # If what was planned did not all happen, keep only what was seen.
        memory = plan.memory if failure is None else _with_what_was_seen(before, evaluation)
        if failure is not None:
            evaluation = _as_seen(evaluation, failure)
        # `leaving` is set from outside, perhaps while this tick was at work.
        self.memory = memory.replace(
            last_applied=_coarse(self.memory.last_applied, evaluation.validated.last_applied),
            leaving=self.memory.leaving,
        )
        failure = await self._save() or failure
        self._probe(evaluation)
        self._publish(evaluation, failure)
        self.ticked_at = self.clock.now()
        acted = any(not isinstance(action, JobAction) for action in plan.actions)
        # The same once more: it was done and cannot be seen. Trying at once again and again would help nobody.
        again = acted and plan.actions == self._done
        self._done = plan.actions
        if failure is not None or again:
            return self.ticked_at + RETRY_S
        return self.ticked_at if acted else min(plan.look_again_at, self._boot_wait_ends())

    async def _save(self) -> str | None:
        """Write the journal; return what went wrong. The host goes on without: only a restart would miss it."""
        try:
            await asyncio.to_thread(self.journal.save, self.memory)
        except TidegateError as exc:
            if self._journal_problem != str(exc):
                log.warning("tick.failed", error=str(exc))
            self._journal_problem = str(exc)
            return self._journal_problem
        self._journal_problem = ""
        return None

    def _boot_wait_ends(self) -> float:
        """Return when a host that still waits for Consul may go by its journal; infinity afterwards."""
        at = self._began + self.boot_policy.boot_wait_s
        return at if not self._confirmed and at > self.clock.now() else float("inf")

    async def preview(self) -> HostView:
        """Look freshly and decide, change nothing: what would be done now."""
        return self._view(await self._evaluate(fresh=True), None)

    async def _evaluate(self, *, fresh: bool) -> "_Evaluation":
        observed = await self.observer.observe(fresh=fresh)
        containers = () if isinstance(observed.containers, Unavailable) else observed.containers
        now = self.clock.now()
        boot = BootState(
            is_running=any(container.is_running for container in containers),
            confirmed=self._confirmed,
            waited_s=now - self._began,
            boot_wait_s=self.boot_policy.boot_wait_s,
            journal_max_age_s=self.boot_policy.journal_max_age_s,
            now_wall=self.clock.wall(),
        )
        validated = self.validate(self.outcome, self.memory.last_applied, self.node, boot)
        plan = self.decide(DecisionInput(self.app, observed, validated.desired, self.memory, now))
        return _Evaluation(self.outcome, observed, validated, plan, now)

    async def _apply(self, plan: Plan) -> str | None:
        """Do the plan; return what went wrong, None when nothing did."""
        if not plan.actions:
            return None
        began = self.clock.now()
        failure = None
        try:
            await self.executor.apply(plan.actions)
        except TidegateError as exc:
            failure = str(exc)
        if (plan.actions, failure) != self._said or self.clock.now() - self._said_at >= SAY_AGAIN_S:
            self._said, self._said_at = (plan.actions, failure), self.clock.now()
            event = log.warning if failure else log.info
            event(
                "tick.completed",
                app=self.app.name,
                actions=[str(action) for action in plan.actions],
                error=failure,
                duration_s=round(self.clock.now() - began, 4),
            )
        return failure

    def _probe(self, evaluation: "_Evaluation") -> None:
        listed = evaluation.observed.containers
        if isinstance(listed, Unavailable):
            return
        started = {container.id: container.started_at for container in listed}
        self.prober.keep_only(frozenset(order.container for order in evaluation.plan.probes))
        for order in evaluation.plan.probes:
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

    def _view(self, evaluation: "_Evaluation", failure: str | None) -> HostView:
        # The plan's memory still has the baseline of before: what is shown is what this look acted on.
        plan = replace(
            evaluation.plan, memory=evaluation.plan.memory.replace(last_applied=evaluation.validated.last_applied)
        )
        return HostView(
            self.app, evaluation.observed, evaluation.validated.desired, plan, evaluation.outcome, failure or ""
        )

    def _publish(self, evaluation: "_Evaluation", failure: str | None) -> None:
        self.view = self._view(evaluation, failure)
        self.on_view(self.view)
        phases = _phases(self.view)
        if phases != self._shown:
            log.info("phase.changed", app=self.app.name, was=self._shown, now=phases)
            self._shown = phases


def _with_what_was_seen(memory: Memory, evaluation: _Evaluation) -> Memory:
    return update_memory(memory, evaluation.observed, evaluation.validated.desired, evaluation.at)


def _as_seen(evaluation: _Evaluation, failure: str) -> _Evaluation:
    """Show what HAProxy was seen to do where the plan shows what a step, perhaps the failed one, was to change."""
    proxy, views = evaluation.observed.proxy, dict(evaluation.plan.views)
    if isinstance(proxy, Unavailable):
        return evaluation
    for slot, server in proxy.servers.items():
        is_ready, phase = server.admin is AdminState.READY, views[slot].phase
        if phase is SlotPhase.SERVING and not is_ready:
            views[slot] = SlotView(SlotPhase.CHECKING, failure)
        elif phase in {SlotPhase.DRAINING, SlotPhase.LEAVING} and is_ready:
            views[slot] = SlotView(SlotPhase.SERVING, failure)
    return replace(evaluation, plan=replace(evaluation.plan, views=views))


def _phases(view: HostView) -> str:
    """Return what each slot does in as few words as there are: ``blue serving, green pulling``."""
    shown = (f"{slot} {slot_view.phase}" for slot, slot_view in sorted(view.plan.views.items()))
    return ", ".join(shown) + (", holding page" if view.plan.memory.holding else "")


def _coarse(before: LastApplied, after: LastApplied) -> LastApplied:
    """Keep the older time of confirmation while nothing else changed and it is young."""
    if before.confirmed_at_wall is None or after.confirmed_at_wall is None:
        return after
    same = before.replace(confirmed_at_wall=None) == after.replace(confirmed_at_wall=None)
    young = 0 <= after.confirmed_at_wall - before.confirmed_at_wall < CONFIRMED_EVERY_S
    return before if same and young else after

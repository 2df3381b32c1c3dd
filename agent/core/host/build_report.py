"""
What a host says of itself: to Consul (the report), to its operator (``tidegate status``) and to Prometheus.

A report is written when it changes, so nothing in it moves by itself but the age of the last request of a slot
that is being emptied, rounded.
"""

from dataclasses import dataclass

from agent.core.host.desired import Desired, DesiredRelease, HoldingPage, Unchanged
from agent.core.host.memory import Failure, LastApplied
from agent.core.host.observed import Container, Observed, Proxy, Unavailable
from agent.core.host.plan import Plan, SlotView
from agent.core.host.update_memory import occupants_of
from agent.core.model.app import App
from agent.core.model.keys import Outcome
from agent.core.model.names import SlotName, unambiguous_reference
from agent.core.model.record import read_record
from agent.core.model.report import FailureReport, NodeReport, SlotReport
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase

AGE_STEP_S = 5
_BUSY_FIRST = (
    SlotPhase.FAILED,
    SlotPhase.RESTARTING,
    SlotPhase.PULLING,
    SlotPhase.STARTING,
    SlotPhase.CHECKING,
    SlotPhase.WAITING,
    SlotPhase.STOPPING,
    SlotPhase.LEAVING,
    SlotPhase.DRAINING,
    SlotPhase.STAGED,
    SlotPhase.SERVING,
    SlotPhase.UNKNOWN,
    SlotPhase.EMPTY,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who reports."""

    node: str
    instance: str
    agent: str
    zone: str = ""
    machine: str = ""


@dataclass(frozen=True, slots=True)
class HostView:
    """One tick, as shown."""

    app: App
    observed: Observed
    desired: Desired
    plan: Plan
    outcome: Outcome
    failure: str = ""

    @property
    def occupants(self) -> dict[SlotName, Container]:
        """The container that counts in each slot."""
        containers = self.observed.containers
        return {} if isinstance(containers, Unavailable) else occupants_of(containers)

    @property
    def proxy(self) -> Proxy | None:
        """HAProxy, where it answered."""
        return None if isinstance(self.observed.proxy, Unavailable) else self.observed.proxy

    @property
    def leading(self) -> tuple[SlotName, SlotView]:
        """The slot an operator should look at first."""
        views = self.plan.views
        slot = min(sorted(views), key=lambda name: _BUSY_FIRST.index(views[name].phase))
        return slot, views[slot]

    @property
    def summary(self) -> str:
        """One line: what each slot does, without what changes by itself."""
        parts, occupants = [], self.occupants
        for slot, view in sorted(self.plan.views.items()):
            occupant = occupants.get(slot)
            if view.phase is not SlotPhase.EMPTY:
                parts.append(
                    f"{slot} {view.phase}{f' {unambiguous_reference(occupant.reference)}' if occupant else ''}"
                )
        if self.plan.memory.holding:
            parts.append("holding page")
        return ", ".join(parts) or "nothing runs"

    @property
    def is_ready(self) -> bool:
        """Whether load balancers are told that the host is ready."""
        proxy = self.proxy
        if proxy is None or proxy.gate is ReadinessGate.CLOSED:
            return False
        return proxy.gate is ReadinessGate.HOLDING or any(server.is_serving for server in proxy.servers.values())


def report_of(view: HostView, identity: Identity) -> NodeReport:
    """Put a tick into the words of the report."""
    proxy, occupants = view.proxy, view.occupants
    generation, seq = _acted_on(view.plan.memory.last_applied)
    return NodeReport(
        app=view.app.name,
        node=identity.node,
        instance=identity.instance,
        agent=identity.agent,
        zone=identity.zone,
        machine=identity.machine,
        generation=generation,
        seq=seq,
        phase=view.leading[1].phase,
        summary=view.summary,
        is_ready=view.is_ready,
        is_leaving=view.plan.memory.leaving,
        gate=proxy.gate if proxy else None,
        old_workers=proxy.old_workers if proxy else None,
        wants=_desired_text(view.desired),
        holds=view.desired.hold.reference if view.desired.hold else "",
        notes=view.plan.notes,
        error=view.failure,
        failures={key: _failure(known) for key, known in sorted(view.plan.memory.failures.items())},
        slots={slot: _slot(view, slot, occupants.get(slot)) for slot in SlotName},
    )


def with_times(report: NodeReport, before: NodeReport | None, now: float) -> NodeReport:
    """Return *report* with the time since when each slot is as it is; *now* in Unix seconds of the host."""
    slots = {}
    for slot, shown in report.slots.items():
        was = before.slots.get(slot) if before is not None else None
        is_same = was is not None and _standing(was) == _standing(shown)
        slots[slot] = shown.replace(since=was.since if was is not None and is_same else round(now, 3))
    return report.replace(slots=slots)


def _standing(shown: SlotReport) -> tuple[object, ...]:
    return shown.release, shown.state, shown.is_up, shown.is_staged


def _failure(known: Failure) -> FailureReport:
    return FailureReport(reason=known.reason, is_final=not known.transient, lines=known.lines)


def _slot(view: HostView, slot: SlotName, occupant: Container | None) -> SlotReport:
    shown = view.plan.views[slot]
    report = SlotReport(phase=shown.phase, reason=shown.reason, lines=shown.lines)
    if occupant is not None:
        report = report.replace(
            image=occupant.reference,
            release=occupant.release,
            digest=occupant.digest,
            pin=occupant.pin,
            generation=occupant.generation,
            container=occupant.id[:12],
        )
    if view.proxy is None:
        return report
    server = view.proxy.servers[slot]
    aging = occupant is not None and server.admin is not AdminState.READY
    # What comes and goes on a slot that serves is no news, unless the host waits for its end.
    is_counted = aging or occupant is None or view.plan.memory.leaving
    return report.replace(
        state=server.admin,
        is_up=server.is_serving,
        is_staged=occupant is not None and _is_staged(view, view.proxy, occupant),
        open_requests=server.open_requests + server.queued if is_counted else None,
        last_request_age_s=_stepped(view.plan.idle_for_s.get(slot, server.last_request_age_s)) if aging else None,
    )


def _stepped(age_s: float) -> int:
    return int(age_s) // AGE_STEP_S * AGE_STEP_S


def _is_staged(view: HostView, proxy: Proxy, occupant: Container) -> bool:
    hold, slot = view.desired.hold, occupant.slot
    if hold is None or not hold.is_met_by(occupant):
        return False
    is_pinned = proxy.pins_saved and proxy.pins.get(slot) == hold.pin_for(occupant)
    return is_pinned and view.plan.memory.slot(slot).staged and proxy.servers[slot].is_known_good


def _desired_text(desired: Desired) -> str:
    match desired.serve:
        case DesiredRelease(reference=reference):
            return reference
        case HoldingPage():
            return "nothing recorded yet: the holding page"
        case Unchanged(reason=reason):
            return f"as it is: {reason}"


def _acted_on(last_applied: LastApplied) -> tuple[int, int]:
    return read_record(last_applied.rollout.value).version if last_applied.rollout else (0, 0)

"""A plan in the making: the one mutable object of a decision, never seen outside of it."""

from dataclasses import dataclass, field

from agent.core.host.actions import (
    Action,
    JobAction,
    Run,
    SaveState,
    SetGate,
    SetPins,
    SetState,
    ShutdownSessions,
    Start,
    Stop,
    Switch,
)
from agent.core.host.desired import AsItIs, Desired, Want
from agent.core.host.memory import Memory, SlotMemory
from agent.core.host.observed import Container, Job, JobKind, Observed, Proxy, Server
from agent.core.host.plan import Plan, ProbeOrder, SlotView
from agent.core.model.app import App
from agent.core.model.names import Pin, SlotName
from agent.core.model.states import AdminState, SlotPhase

RESYNC_S = 30.0
"""A converged host looks again this often though nothing woke it."""

BUSY_POLL_S = 0.1
"""While something is about to change that sends no event (a check of HAProxy's, an emptying slot)."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything a decision depends on."""

    app: App
    observed: Observed
    desired: Desired
    memory: Memory
    now: float
    """Monotonic seconds."""


@dataclass(slots=True)
class Draft:
    """Collects actions by their place in the order, the next memory, and what to show."""

    at: Situation
    proxy: Proxy
    tenants: dict[SlotName, Container]
    memory: Memory
    states: list[SetState | Switch | ShutdownSessions] = field(default_factory=list)
    jobs: list[JobAction] = field(default_factory=list)
    pins: dict[SlotName, Pin] = field(default_factory=dict)
    gate: SetGate | None = None
    views: dict[SlotName, SlotView] = field(default_factory=dict)
    probes: list[ProbeOrder] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    silence: dict[SlotName, float] = field(default_factory=dict)
    """Seconds since a visitor was last seen on a slot."""
    look_at: float = 0.0

    def __post_init__(self) -> None:
        self.look_at = self.now + RESYNC_S

    @property
    def now(self) -> float:
        """Monotonic seconds of this tick."""
        return self.at.now

    @property
    def serve(self) -> Want | None:
        """The release this host should serve; None where nothing is to be changed, or nothing is recorded."""
        match self.at.desired.serve:
            case Want() as want:
                return want
            case AsItIs(newcomer=newcomer) if not any(self.slot(slot).served for slot in self.tenants):
                return newcomer
            case _:
                return None

    def insists_on(self, want: Want) -> bool:
        """Whether a failed attempt with *want* is made again after a pause: it is to serve, and nothing does."""
        serving = any(is_ready(self.server(slot)) for slot in self.tenants)
        return want is self.serve and not serving

    def server(self, slot: SlotName) -> Server:
        """Return HAProxy's view of *slot*."""
        return self.proxy.servers[slot]

    def admin_after(self, slot: SlotName) -> AdminState:
        """Return the state of *slot* after what this draft plans so far."""
        planned = (step.state for step in reversed(self.states) if isinstance(step, SetState) and step.slot is slot)
        return next(planned, self.server(slot).admin)

    def slot(self, slot: SlotName) -> SlotMemory:
        """Return what is remembered of *slot*, as of now in this draft."""
        return self.memory.slot(slot)

    def remember(self, slot: SlotName, **changes: object) -> None:
        """Change what is remembered of *slot*."""
        self.memory = self.memory.with_slot(slot, **changes)

    def show(self, slot: SlotName, phase: SlotPhase, reason: str = "", lines: tuple[str, ...] = ()) -> None:
        """Say what *slot* is doing."""
        self.views[slot] = SlotView(phase, reason, lines)

    def look(self, at: float) -> None:
        """Ask for the next look not later than *at*."""
        self.look_at = min(self.look_at, at)

    def job(self, slot: SlotName) -> Job | None:
        """Return the job under way on *slot*."""
        return next(
            (job for job in self.at.observed.jobs if job.kind not in (JobKind.PULL, JobKind.PRUNE) and job.key == slot),
            None,
        )

    def has_planned_job(self, slot: SlotName) -> bool:
        """Whether this draft already starts a job on *slot*."""
        return any(isinstance(job, Run | Start | Stop) and job.slot == slot for job in self.jobs)

    def pull_of(self, want: Want) -> Job | None:
        """Return the pull under way for *want*."""
        jobs = self.at.observed.jobs
        return next((job for job in jobs if job.kind is JobKind.PULL and job.key == want.reference), None)

    def finish(self) -> Plan:
        """Put the actions in their order: pins that come, states, pins that go, gate, saved states, jobs."""
        actions: list[Action] = []
        held = dict(self.proxy.pins)
        both = {**held, **self.pins}
        if both != held or (both == self.pins and not self.proxy.pins_saved):
            actions.append(SetPins(both))
        actions.extend(self.states)
        if both != self.pins:
            actions.append(SetPins(dict(self.pins)))
        if self.gate is not None:
            actions.append(self.gate)
        if self.states or not self.proxy.state_saved:
            actions.append(SaveState())
        actions.extend(self.jobs)
        return Plan(
            tuple(actions),
            self.look_at,
            self.memory,
            self.views,
            tuple(self.probes),
            tuple(self.notes),
            self.silence,
        )


def is_ready(server: Server) -> bool:
    """Whether new visitors are sent to it, up or not."""
    return server.admin is AdminState.READY

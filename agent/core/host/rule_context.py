"""What a rule of a decision reads: the host as it was seen, the memory, and what the rules before it planned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.core.host.desired import AsItIs, Want
from agent.core.host.memory import Memory, SlotMemory
from agent.core.host.observed import Container, Job, JobKind, Proxy, Server
from agent.core.host.plan_builder import NOTHING, Fragment, Situation, merge, remember
from agent.core.model.app import Knobs
from agent.core.model.names import SlotName


class Goal(StrEnum):
    """What a tenant is there for; :mod:`agent.core.host.slot_roles` says which has which."""

    SERVE = "serve"
    HOLD = "hold"
    KEEP = "keep"
    LEAVE = "leave"
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class RuleContext:
    """A situation in which HAProxy answered, as it is after the rules so far."""

    at: Situation
    proxy: Proxy
    tenants: Mapping[SlotName, Container]
    """The container that counts in each slot; none where Docker did not answer."""
    memory: Memory
    """With the changes of the rules so far."""
    planned: Fragment = NOTHING
    """The fragments of the rules so far, merged."""
    goals: Mapping[SlotName, Goal] = field(default_factory=dict)

    def after(self, fragment: Fragment) -> "RuleContext":
        """Return the context of the next rule."""
        if fragment is NOTHING:
            return self
        memory, planned = remember(self.memory, fragment), merge(self.planned, fragment)
        return RuleContext(self.at, self.proxy, self.tenants, memory, planned, self.goals)

    def with_goals(self, goals: Mapping[SlotName, Goal]) -> "RuleContext":
        """Return it with the goal of each tenant."""
        return RuleContext(self.at, self.proxy, self.tenants, self.memory, self.planned, goals)

    @property
    def now(self) -> float:
        """Monotonic seconds of this tick."""
        return self.at.now

    @property
    def knobs(self) -> Knobs:
        """The app's times and limits."""
        return self.at.app.knobs

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
        serving = any(self.server(slot).is_ready for slot in self.tenants)
        return want is self.serve and not serving

    def slot_with(self, goal: Goal) -> SlotName | None:
        """Return the slot whose tenant has *goal*."""
        return next((slot for slot, has in self.goals.items() if has is goal), None)

    def server(self, slot: SlotName) -> Server:
        """Return HAProxy's view of *slot*."""
        return self.proxy.servers[slot]

    def slot(self, slot: SlotName) -> SlotMemory:
        """Return what is remembered of *slot*, with the changes of the rules so far."""
        return self.memory.slot(slot)

    def job(self, slot: SlotName) -> Job | None:
        """Return the job under way on *slot*."""
        jobs = self.at.observed.jobs
        return next((job for job in jobs if job.kind not in (JobKind.PULL, JobKind.PRUNE) and job.key == slot), None)

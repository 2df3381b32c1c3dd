"""What a rule of a decision reads: the host as it was seen, the memory, and what the rules before it planned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.core.host.desired import DesiredRelease, Unchanged
from agent.core.host.memory import Memory, SlotMemory
from agent.core.host.observed import Container, Job, JobKind, Proxy, Server
from agent.core.host.plan_builder import NOTHING, DecisionInput, Fragment, merge, remember
from agent.core.model.app import DeployTimings
from agent.core.model.names import SlotName


class SlotRole(StrEnum):
    """What an occupant is there for; :mod:`agent.core.host.slot_roles` says which has which."""

    SERVE = "serve"
    HOLD = "hold"
    KEEP = "keep"
    LEAVE = "leave"
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class RuleContext:
    """A situation in which HAProxy answered, as it is after the rules so far."""

    at: DecisionInput
    proxy: Proxy
    occupants: Mapping[SlotName, Container]
    """The container that counts in each slot; none where Docker did not answer."""
    memory: Memory
    """With the changes of the rules so far."""
    planned: Fragment = NOTHING
    """The fragments of the rules so far, merged."""
    roles: Mapping[SlotName, SlotRole] = field(default_factory=dict)

    def after(self, fragment: Fragment) -> "RuleContext":
        """Return the context of the next rule."""
        if fragment is NOTHING:
            return self
        memory, planned = remember(self.memory, fragment), merge(self.planned, fragment)
        return RuleContext(self.at, self.proxy, self.occupants, memory, planned, self.roles)

    def with_roles(self, roles: Mapping[SlotName, SlotRole]) -> "RuleContext":
        """Return it with the role of each occupant."""
        return RuleContext(self.at, self.proxy, self.occupants, self.memory, self.planned, roles)

    @property
    def now(self) -> float:
        """Monotonic seconds of this tick."""
        return self.at.now

    @property
    def knobs(self) -> DeployTimings:
        """The app's times and limits."""
        return self.at.app.knobs

    @property
    def serve(self) -> DesiredRelease | None:
        """The release this host should serve; None where nothing is to be changed, or nothing is recorded."""
        match self.at.desired.serve:
            case DesiredRelease() as release:
                return release
            case Unchanged(newcomer=newcomer) if not any(self.slot(slot).served for slot in self.occupants):
                return newcomer
            case _:
                return None

    def insists_on(self, release: DesiredRelease) -> bool:
        """Whether a failed attempt with *release* is made again after a pause: it is to serve, and nothing does."""
        serving = any(self.server(slot).is_ready for slot in self.occupants)
        return release is self.serve and not serving

    def slot_with(self, role: SlotRole) -> SlotName | None:
        """Return the slot whose occupant has *role*."""
        return next((slot for slot, has in self.roles.items() if has is role), None)

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

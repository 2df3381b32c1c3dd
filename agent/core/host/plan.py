"""The result of a decision: what to do now, when to look again, what to show. `build_plan` orders the actions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.host.actions import Action
from agent.core.host.memory import Memory
from agent.core.model.names import ContainerId, SlotName
from agent.core.model.spec import Probe
from agent.core.model.states import SlotPhase


@dataclass(frozen=True, slots=True)
class SlotView:
    """One line about a slot for the operator."""

    phase: SlotPhase
    reason: str = ""
    """What it waits for, or what went wrong; empty when there is nothing to wait for."""
    lines: tuple[str, ...] = ()
    """The last log lines of a container that failed."""


@dataclass(frozen=True, slots=True)
class ProbeOrder:
    """A container the agent should keep probing."""

    container: ContainerId
    slot: SlotName
    probe: Probe


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one look at the host leads to."""

    actions: tuple[Action, ...]
    """In order; safe to break off after any of them."""
    look_again_at: float
    """Monotonic seconds: when something may be due though nothing changes."""
    memory: Memory
    views: Mapping[SlotName, SlotView]
    probes: tuple[ProbeOrder, ...] = ()
    notes: tuple[str, ...] = ()
    """What concerns no single slot: held back keys, systems that are away."""
    idle_for_s: Mapping[SlotName, float] = field(default_factory=dict)
    """Seconds since a visitor was last seen on a slot that is watched for it: to the end of what was open."""

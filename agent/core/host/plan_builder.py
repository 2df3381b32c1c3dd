"""
How a plan is built: each rule of a decision returns a fragment, fragments are merged, and the actions put in order.

Nothing is changed in place: what a rule wants remembered is part of its fragment, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.host.actions import (
    Action,
    JobAction,
    SaveState,
    SetPins,
    SetReadinessGate,
    SetState,
    ShutdownSessions,
    Switch,
)
from agent.core.host.desired import Desired
from agent.core.host.memory import Memory, MemoryChanges, SlotChanges, SlotMemory
from agent.core.host.observed import Observed, Proxy
from agent.core.host.plan import Plan, ProbeOrder, SlotView
from agent.core.model.app import App
from agent.core.model.names import Pin, SlotName
from agent.core.model.states import SlotPhase

RESYNC_S = 30.0
"""A converged host looks again this often though nothing woke it."""

BUSY_POLL_S = 0.1
"""While something is about to change that sends no event (a check of HAProxy's, an emptying slot)."""

_EMPTY = SlotView(SlotPhase.EMPTY)


@dataclass(frozen=True, slots=True)
class DecisionInput:
    """Everything a decision depends on."""

    app: App
    observed: Observed
    desired: Desired
    memory: Memory
    now: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """What one rule adds to a plan."""

    states: tuple[SetState | Switch | ShutdownSessions, ...] = ()
    jobs: tuple[JobAction, ...] = ()
    gate: SetReadinessGate | None = None
    pins: Mapping[SlotName, Pin | None] = field(default_factory=dict)
    """Pins that the maps should hold; None: none for this slot, whatever an earlier rule said."""
    views: Mapping[SlotName, SlotView] = field(default_factory=dict)
    probes: tuple[ProbeOrder, ...] = ()
    notes: tuple[str, ...] = ()
    idle_for_s: Mapping[SlotName, float] = field(default_factory=dict)
    """What :class:`Plan` says of it."""
    look_again_at: float = float("inf")
    """Monotonic seconds; the earliest of all fragments counts."""
    memory: MemoryChanges = field(default_factory=MemoryChanges)
    """Fields of the memory that change."""
    slots: Mapping[SlotName, SlotChanges] = field(default_factory=dict)
    """Fields of a slot's memory that change."""


NOTHING = Fragment()
"""The fragment of a rule that does not apply."""


def merge(first: Fragment, second: Fragment) -> Fragment:
    """Return both as one; where both speak of the same slot or field, *second* counts."""
    if first is NOTHING:
        return second
    if second is NOTHING:
        return first
    return Fragment(
        first.states + second.states,
        first.jobs + second.jobs,
        second.gate or first.gate,
        {**first.pins, **second.pins},
        {**first.views, **second.views},
        first.probes + second.probes,
        first.notes + second.notes,
        {**first.idle_for_s, **second.idle_for_s},
        min(first.look_again_at, second.look_again_at),
        first.memory | second.memory,
        _merged_slots(first.slots, second.slots),
    )


def _merged_slots(
    first: Mapping[SlotName, SlotChanges], second: Mapping[SlotName, SlotChanges]
) -> Mapping[SlotName, SlotChanges]:
    if not (first and second):
        return first or second
    return {**first, **{slot: first.get(slot, SlotChanges()) | changes for slot, changes in second.items()}}


def remember(memory: Memory, fragment: Fragment) -> Memory:
    """Return *memory* with the changes of *fragment*."""
    slots: dict[SlotName, SlotMemory] = {}
    for slot, changes in fragment.slots.items():
        known = memory.slot(slot)
        if any(getattr(known, name) != value for name, value in changes.items()):
            slots[slot] = known.replace(**changes)
    if slots:
        return memory.replace(**fragment.memory, slots={**memory.slots, **slots})
    return memory.replace(**fragment.memory) if fragment.memory else memory


def build_plan(planned: Fragment, proxy: Proxy, memory: Memory, now: float) -> Plan:
    """
    Put the actions in their order: pins that come, states, pins that go, gate, saved states, jobs.

    Args:
        planned: the fragments of all rules, merged; a slot that none of them shows is empty.
        proxy: HAProxy as it was seen.
        memory: the next memory.
        now: monotonic seconds.
    """
    actions: list[Action] = []
    held = dict(proxy.pins)
    pins = {slot: pin for slot, pin in planned.pins.items() if pin is not None}
    both = {**held, **pins}
    if both != held or (both == pins and not proxy.pins_saved):
        actions.append(SetPins(both))
    actions.extend(planned.states)
    if both != pins:
        actions.append(SetPins(pins))
    if planned.gate is not None:
        actions.append(planned.gate)
    if planned.states or not proxy.state_saved:
        actions.append(SaveState())
    actions.extend(planned.jobs)
    return Plan(
        tuple(actions),
        min(now + RESYNC_S, planned.look_again_at),
        memory,
        {slot: planned.views.get(slot, _EMPTY) for slot in SlotName},
        planned.probes,
        planned.notes,
        planned.idle_for_s,
    )

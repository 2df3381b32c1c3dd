"""Where the tests of single flows begin: a simulated host that has booted, staged or switched; and what it shows."""

from agent.core.host.actions import Action
from agent.core.host.plan import Plan
from agent.core.model.names import SlotName
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase
from tests.sim.host import operator_model as host
from tests.sim.host.agent import Bug
from tests.sim.host.world import World

GREEN = SlotName.GREEN


def watched() -> tuple[World, list[Action]]:
    """Return a world and the list of every action its agent takes from now on."""
    taken: list[Action] = []

    def note(plan: Plan, _: object) -> Plan:
        taken.extend(plan.actions)
        return plan

    return World(3, Bug(plan=note)), taken


def booted() -> tuple[World, list[Action]]:
    """Return a world that serves app:a in blue."""
    world, taken = watched()
    host.activate(world, "app:a")
    assert world.run_for(10, lambda: serves(world, "app:a"))
    world.run_for(1)
    taken.clear()
    return world, taken


def staged(reference: str = "app:b") -> tuple[World, list[Action]]:
    """Return a world that serves app:a and holds *reference* staged in green."""
    world, taken = booted()
    host.stage(world, reference)
    assert world.run_for(10, lambda: phase(world, GREEN) is SlotPhase.STAGED)
    taken.clear()
    return world, taken


def switched() -> tuple[World, list[Action]]:
    """Return a world that has just switched from app:a (blue) to app:b (green)."""
    world, taken = staged()
    host.activate(world, "app:b")
    assert world.run_for(2, lambda: serves(world, "app:b"))
    return world, taken


def serves(world: World, reference: str) -> bool:
    serving = world.serving()
    return serving is not None and serving.reference == reference


def phase(world: World, slot: SlotName) -> SlotPhase:
    assert world.agent.plan is not None
    return world.agent.plan.views[slot].phase


def reason(world: World, slot: SlotName) -> str:
    assert world.agent.plan is not None
    return world.agent.plan.views[slot].reason


def admin(world: World, slot: SlotName) -> AdminState:
    return world.proxy.process.servers[slot].admin


def gate(world: World) -> ReadinessGate:
    return world.proxy.process.gate


def kinds(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]

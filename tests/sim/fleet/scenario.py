"""One seed: a fleet that boots, deploys under visitors while things befall it, and comes to rest."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.core.model.record import Phase
from agent.core.rollout import commands
from agent.core.rollout.decision import Decision
from agent.runtime.fleet.housekeeping import GONE_S
from tests.sim.fleet.faults import DEEDS, heal, inject_fault
from tests.sim.fleet.planting import planted
from tests.sim.fleet.requests import image_of, strategy_of
from tests.sim.fleet.rest import at_rest, leftovers, orphans, unsettled
from tests.sim.fleet.visitors import all_kinds_of_visitors
from tests.sim.fleet.world import FleetBug, FleetWorld

PHASES = (*Phase,)
LONGEST_S = 900.0
TIDY_S = 300.0
REST_S = 180.0
"""Longest time for hosts to come to rest: a `drain_timeout`, and the checks and pulls around it."""
JOINS = 8
TIDY_EVERY = 20
"""Seeds in which the fleet is left alone for an hour, to see what is cleared away."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed came to."""

    seed: int
    rollouts: int
    faults: int
    breaches: dict[str, list[str]]
    asked: int
    failed: int
    moved: dict[str, int]
    ends: dict[str, int]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is wanted of a scenario beside its seed; what is None is drawn from it."""

    hosts: int | None = None
    deploys: int | None = None
    images: tuple[str, ...] = ()
    """To deploy, one after the other."""
    faults: tuple[tuple[Phase, str], ...] | None = None
    """Deeds, each shortly after its phase is entered."""
    is_churning: bool | None = None
    """Hosts join all the time."""
    bug: FleetBug = field(default_factory=FleetBug)
    traces: bool = False
    stops_at: str = ""
    """End at the first breach of this invariant."""


@dataclass(frozen=True, slots=True)
class Script:
    """What is known of a scenario before it begins."""

    hosts: int
    coordinators: int
    is_first_deploy: bool
    deploys: int
    faults: int
    is_churning: bool

    @classmethod
    def of(cls, rng: random.Random, setting: Setting) -> "Script":
        """Draw one."""
        drawn = cls(
            hosts=rng.choice((3, 3, 4, 5, 6, 8, 12, 20)),
            coordinators=rng.choice((2, 3, 3)),
            is_first_deploy=rng.random() < 0.1 and not setting.images,
            deploys=rng.choice((1, 1, 2)),
            faults=rng.choice((0, 1, 2, 3, 4, 6, 10)),
            is_churning=rng.random() < 0.05,
        )
        return replace(
            drawn,
            hosts=drawn.hosts if setting.hosts is None else setting.hosts,
            deploys=drawn.deploys if setting.deploys is None else setting.deploys,
            is_churning=drawn.is_churning if setting.is_churning is None else setting.is_churning,
        )


def run_seed(seed: int, setting: Setting | None = None) -> Outcome:
    """Run one scenario to its end and judge it."""
    setting = setting or Setting()
    with planted(setting.bug.coordinator):
        world = FleetWorld(seed, setting.bug, setting.traces)
        try:
            return _run(world, setting)
        finally:
            world.close()


def _run(world: FleetWorld, setting: Setting) -> Outcome:
    script = Script.of(world.rng, setting)
    _boot(world, script)
    _plan_faults(world, script, setting)
    world.on_phase.append(lambda record: _promote(world, record))
    for number in range(script.deploys):
        image = setting.images[number % len(setting.images)] if setting.images else image_of(world.rng)
        world.note(f"deploy {number + 1} of {script.deploys}: {image}")
        world.operator("deployer").deploy(image, strategy_of(world.rng))
        world.clock.run(world.clock.now + LONGEST_S, stop=_ended(world, setting.stops_at))
        if setting.stops_at in world.breaches:
            return outcome_of(world)
        world.clock.run(world.clock.now + world.rng.uniform(0, 15))
    finish(world)
    return outcome_of(world)


def _boot(world: FleetWorld, script: Script) -> None:
    world.clock_skew_s = world.rng.choice((0.0, 0.0, 2.0, 10.0))
    for number in range(script.hosts):
        world.add_node(f"web-{number + 1}")
    for number in range(script.coordinators):
        shared = world.rng.random() < 0.3
        link = world.rng.choice(tuple(world.nodes.values())).link if shared else None
        world.add_coordinator(str(number + 1), link, world.rng.uniform(-world.clock_skew_s, world.clock_skew_s))
    world.visit_checks.clock_skew_s = world.clock_skew_s
    if not script.is_first_deploy:
        world.operator("founder").put(active="app:a")
    for node in world.nodes.values():
        world.clock.after(world.rng.uniform(0, 2), node.boot)
    world.clock.run(40.0, stop=lambda: all(node.says_ready for node in world.nodes.values()))
    world.clock.run(world.clock.now + 3.0)
    world.traffic.begin(all_kinds_of_visitors(world.traffic.rng, 6 + min(14, script.hosts // 2)))


def _ended(world: FleetWorld, stops_at: str = "") -> Callable[[], bool]:
    began = world.clock.now

    def ended() -> bool:
        if stops_at in world.breaches:
            return True
        return not world.record_monitor.in_progress and world.clock.now - began > 12.0

    return ended


def _plan_faults(world: FleetWorld, script: Script, setting: Setting) -> None:
    if script.is_churning:
        for number in range(JOINS):
            world.clock.after(8.0 * number, lambda: inject_fault(world, "join"))
    if setting.faults is not None:
        for phase, name in setting.faults:
            _at_phase(world, phase, world.rng.uniform(0.3, 3.0), name)
        return
    for _ in range(script.faults):
        name = world.rng.choice(tuple(DEEDS))
        delay_s = world.rng.choice((0.01, 0.05, 0.3, 1.0, 3.0, 8.0)) * world.rng.uniform(0.5, 1.5)
        if world.rng.random() < 0.4:
            world.clock.after(world.rng.uniform(0, 110), lambda name=name: inject_fault(world, name))  # type: ignore[misc]
        else:
            _at_phase(world, world.rng.choice(PHASES[:10]), delay_s, name)


def _at_phase(world: FleetWorld, phase: Phase, delay_s: float, name: str) -> None:
    """Let *name* happen a moment after *phase* was entered for the first time."""
    armed = [True]

    def entered(record: Decision) -> None:
        if armed and record.phase is phase:
            armed.clear()
            world.clock.after(delay_s, lambda: inject_fault(world, name))

    world.on_phase.append(entered)


def _promote(world: FleetWorld, record: Decision) -> None:
    waits = record.phase is Phase.AWAITING_PROMOTION or (
        record.phase is Phase.READY and record.strategy.waits_for_promote
    )
    if waits and not record.flags.promoted and world.rng.random() < 0.8:
        operator = world.operator("promoter")
        world.clock.after(world.rng.uniform(1, 12), lambda: operator.submit("promote", commands.promote))


def finish(world: FleetWorld) -> None:
    """End all faults, wait for rest within bounds, and judge what is left."""
    heal(world)
    world.note("all faults end")
    if world.needs_adoption:
        world.operator("restorer").adopt()
        world.needs_adoption = False
    world.clock.run(world.clock.now + LONGEST_S, stop=_ended(world))
    world.traffic.is_over = True
    end = world.clock.now + REST_S
    while world.clock.now < end and not at_rest(world):
        world.clock.run(world.clock.now + 10.0)
    for name, what in (*unsettled(world), *orphans(world)):
        world.breach(name, what)
    if world.seed % TIDY_EVERY == 0 and world.record_monitor.current is not None and not world.breaches:
        world.clock.run(world.clock.now + GONE_S + TIDY_S)
        for name, what in leftovers(world):
            world.breach(name, what)


def outcome_of(world: FleetWorld) -> Outcome:
    """End a world, and add up what it came to."""
    world.close()
    ends: dict[str, int] = {}
    for rollout in world.record_monitor.rollouts.values():
        end = "cut off by a restore" if rollout.is_forked else str(rollout.record.phase)
        ends[end] = ends.get(end, 0) + 1
    return Outcome(
        seed=world.seed,
        rollouts=len(world.record_monitor.rollouts),
        faults=world.faults,
        breaches={name: list(found) for name, found in world.breaches.items() if found},
        asked=world.traffic.asked,
        failed=world.traffic.failed,
        moved=dict(world.visit_checks.moved),
        ends=ends,
    )

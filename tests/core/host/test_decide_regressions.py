"""What the simulation of fleets found in the core of one host: each as small as it gets."""

from dataclasses import replace

from agent.core.host.actions import SetState, Stop
from agent.core.host.build_report import HostView, Identity, report_of
from agent.core.host.decide import decide
from agent.core.host.observed import Health, Observed, Proxy
from agent.core.host.plan import Plan
from agent.core.host.plan_builder import DecisionInput
from agent.core.host.validate import Validated
from agent.core.model.keys import Unknown
from agent.core.model.names import SlotName
from agent.core.model.record import Phase, RecordedRelease
from agent.core.model.spec import RunSpec
from agent.core.model.states import AdminState, SlotPhase
from tests.sim.host import operator_model as host
from tests.sim.host.fixtures import GREEN, booted, phase
from tests.sim.host.proxy_model import Request
from tests.sim.host.world import World


def test_s8_what_fails_at_its_deadline_is_not_put_into_traffic_in_the_same_plan() -> None:
    """An agent that hung looked again after `healthy_deadline`: it set the slot to drain and stopped its container."""
    world, _ = booted()
    host.stage(world, "app:b")
    assert world.run_for(5, lambda: phase(world, GREEN) is SlotPhase.CHECKING)
    observed, desired = seen(world), world.agent.desired
    assert isinstance(observed.proxy, Proxy)
    assert desired is not None
    idle = replace(observed.proxy.servers[GREEN], admin=AdminState.MAINT, status="MAINT")
    proxy = replace(observed.proxy, servers={**observed.proxy.servers, GREEN: idle})
    container = next(c for c in world.docker.containers_by_id.values() if c.slot is GREEN)
    health = {container.id: Health(container.id, 30.0, probed=True, detail="")}
    late = replace(observed, proxy=proxy, health=health)
    plan = decide(DecisionInput(world.app, late, desired, world.agent.memory, world.now + 20))
    assert any(isinstance(action, Stop) for action in plan.actions)
    assert not any(isinstance(action, SetState) for action in plan.actions)


def seen(world: World) -> Observed:
    """Return what the agent saw in its last look."""
    view = world.agent.reconciler.view
    assert view is not None
    return view.observed


def baked() -> World:
    """Return a host that has switched from app:a to app:b in a rollout that bakes."""
    world, _ = booted()
    serving = world.serving()
    assert serving is not None
    source = RecordedRelease(image=serving.reference, spec=RunSpec(), release=serving.release, pin=serving.pin)
    world.consul.begin_rollout("app:b", source)
    assert world.run_for(10, lambda: phase(world, GREEN) is SlotPhase.STAGED)
    world.monitor.activate("app:b")
    for step in (Phase.READY, Phase.SWITCHING, Phase.BAKING):
        world.consul.enter(step)
    world.run_for(1)
    return world


def reported_age(world: World) -> int | None:
    """Return what the host reports of the last request on the source."""
    assert world.agent.plan is not None
    assert world.agent.desired is not None
    observed = seen(world)
    plan: Plan = decide(
        DecisionInput(world.app, observed, world.agent.desired, world.agent.memory, world.now),
    )
    validated = Validated(world.agent.desired, world.agent.memory.last_applied)
    view = HostView(world.app, observed, validated.desired, plan, Unknown(""))
    return report_of(view, Identity("web-1", "one", "0")).slots[SlotName.BLUE].last_request_age_s


def test_s14_the_silence_of_the_source_counts_from_the_end_of_what_was_open() -> None:
    """HAProxy counts from the start of a request: a stream that ended just now would look silent for its length."""
    world = baked()
    world.visitors.clear()
    source = world.docker.in_slot(SlotName.BLUE)
    assert source is not None
    world.run_for(3)
    process = world.proxy.process
    process.servers[SlotName.BLUE].last_request = world.now
    world.proxy.requests.append(Request(process, SlotName.BLUE, source.id, world.now + 30))
    world.run_for(31)
    assert process.servers[SlotName.BLUE].last_request is not None
    assert world.proxy.open_on(SlotName.BLUE) == 0
    assert reported_age(world) == 0
    world.run_for(11)
    assert reported_age(world) in (5, 10)

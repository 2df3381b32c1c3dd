"""A host that boots or comes back while the fleet runs two releases has both before it is ready."""

import pytest

from agent.core.model.names import NodeName, SlotName
from agent.core.model.record import Phase, RecordedRelease
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.spec import RunSpec
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase
from agent.core.rollout.fleet import Host
from tests.sim.host.consul_model import recorded
from tests.sim.host.fixtures import gate
from tests.sim.host.world import KNOBS, World


def booting(phase: Phase, *, source: str = "app:a", target: str = "app:b") -> World:
    """Return a host that boots while a rollout is in *phase*; its gate file says open, as before the reboot."""
    world = World(1)
    world.monitor.activate(source)
    world.monitor.activate(target)
    world.consul.put(active=source)
    world.consul.begin_rollout(target, recorded(source, 0))
    for step in (Phase.READY, Phase.SWITCHING, Phase.BAKING, Phase.RETIRING):
        if world.consul.record is not None and world.consul.record.phase is not phase:
            world.consul.enter(step)
    return world


def is_ready(world: World) -> bool:
    """Whether load balancers send visitors here."""
    return gate(world) is ReadinessGate.OPEN and world.serving() is not None


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.BAKING])
def test_a_joiner_is_ready_only_once_it_runs_both_releases(phase: Phase) -> None:
    """Not for an instant before, or holders of the other release would be moved."""
    world = booting(phase)
    assert world.run_for(20, lambda: world.serving() is not None)
    while not is_ready(world):
        assert world.now < 30
        world.step()
    both = {world.docker.in_slot(slot) is not None and slot in world.proxy.process.pins for slot in SlotName}
    assert both == {True}
    assert {srv.admin for srv in world.proxy.process.servers.values()} == {AdminState.READY, AdminState.DRAIN}


def test_a_joiner_whose_release_is_taken_back_is_ready_only_once_it_serves_the_other_one() -> None:
    """It serves the target and stages the source when the rollout goes back: visitors of the source are about."""
    world = booting(Phase.BAKING)
    assert world.run_for(20, lambda: (serving := world.serving()) is not None and serving.reference == "app:b")
    assert gate(world) is ReadinessGate.CLOSED
    world.consul.enter(Phase.ROLLING_BACK)
    while not is_ready(world):
        assert world.now < 30
        world.step()
    serving = world.serving()
    assert serving is not None
    assert serving.reference == "app:a"


@pytest.mark.parametrize("phase", [Phase.STAGING, Phase.RETIRING])
def test_where_visitors_have_one_release_only_a_joiner_waits_for_that_one(phase: Phase) -> None:
    """Before the commit nobody has the target, in retiring nobody has the source."""
    world = booting(
        phase,
        source="app:a" if phase is Phase.STAGING else "app:n-never",
        target="app:n-never" if phase is Phase.STAGING else "app:b",
    )
    assert world.run_for(5, lambda: is_ready(world))


def test_a_joiner_whose_other_release_failed_is_ready_with_the_one_it_serves() -> None:
    """With a reason to show; more cannot be had."""
    world = booting(Phase.BAKING, source="app:e-exits")
    assert world.run_for(5, lambda: world.serving() is not None)
    assert world.run_for(15, lambda: is_ready(world))
    assert world.agent.memory.failures


def test_what_may_pass_by_itself_has_failed_after_a_minute_of_attempts() -> None:
    """A registry that is away for a moment makes no joiner ready; one that stays away keeps none out for ever."""
    world = booting(Phase.BAKING, source="app:r-away")
    assert not world.run_for(30, lambda: is_ready(world))
    assert world.run_for(60, lambda: is_ready(world))


@pytest.mark.parametrize("wiped", [False, True])
def test_an_agent_that_restarts_beside_a_release_that_serves_changes_no_readiness(wiped: bool) -> None:
    """With the journal or without, though the release beside it is gone meanwhile."""
    world = booting(Phase.BAKING)
    assert world.run_for(30, lambda: is_ready(world))
    held = next(c for c in world.docker.containers_by_id.values() if c.reference == "app:a")
    world.agent.kill()
    world.start_agent(wiped=wiped)
    world.docker.exit(held.id, 1)
    for _ in range(200):
        world.step()
        assert is_ready(world)


def test_an_agent_that_restarts_before_its_host_was_ready_does_not_make_it_so() -> None:
    """Its closed gate tells it apart from a host that serves."""
    world = booting(Phase.BAKING, source="app:a")
    assert world.run_for(20, lambda: world.serving() is not None)
    assert not is_ready(world)
    world.agent.kill()
    world.start_agent(wiped=True)
    while not is_ready(world):
        assert world.now < 30
        world.step()
    assert all(slot in world.proxy.process.pins for slot in SlotName)


def reboot(world: World) -> None:
    """Everything stops; HAProxy comes back without states, the containers wait for the agent."""
    for container in tuple(world.docker.containers_by_id.values()):
        world.docker.exit(container.id, 137)
    world.proxy.restart(keep=False)
    world.agent.kill()
    world.start_agent(rebooted=True)


def serving_a() -> World:
    """Return a host that serves `app:a` by the keys."""
    world = World(1)
    world.monitor.activate("app:a")
    world.consul.put(active="app:a")
    assert world.run_for(10, lambda: is_ready(world))
    return world


def source_of(world: World) -> RecordedRelease:
    """Return what serves, as a record names it."""
    serving = world.serving()
    assert serving is not None
    return RecordedRelease(image=serving.reference, spec=RunSpec(), release=serving.release, pin=serving.pin)


def staged() -> World:
    """Return a host that serves `app:a` and has staged `app:b`; the rollout is before its commit."""
    world = serving_a()
    world.consul.begin_rollout("app:b", source_of(world))
    assert world.run_for(10, lambda: len(world.proxy.process.pins) == 2)
    world.run_for(3)
    return world


def baking() -> World:
    """Return a host that was there from the beginning: it has served `app:a`, and serves `app:b` now."""
    world = staged()
    world.monitor.activate("app:b")
    for step in (Phase.READY, Phase.SWITCHING, Phase.BAKING):
        world.consul.enter(step)
        world.run_for(1)
    assert is_ready(world)
    return world


def test_a_member_that_reboots_is_ready_only_once_it_runs_both_again() -> None:
    """What it had in the boot before counts no more."""
    world = baking()
    reboot(world)
    assert not is_ready(world)
    while not is_ready(world):
        assert world.now < 60
        world.step()
    servers = world.proxy.process.servers
    assert {servers[slot].admin for slot in SlotName} == {AdminState.READY, AdminState.DRAIN}
    assert all(servers[slot].takes_pinned for slot in SlotName)


@pytest.mark.parametrize("how", ["sick", "dies"])
def test_a_member_that_reboots_does_not_wait_for_ever_for_a_release_that_is_broken_by_now(how: str) -> None:
    """After a power cut every host boots: what is wrong with the old release may not keep all of them out."""
    world = baking()
    held = next(c for c in world.docker.containers_by_id.values() if c.reference == "app:a")
    reboot(world)
    world.docker.sick.add(held.id)
    began = world.now
    while not is_ready(world):
        assert world.now < began + 40
        world.step()
        if how == "dies" and world.docker.containers_by_id[held.id].is_running:
            world.docker.exit(held.id, 1)
    assert world.now > began + KNOBS.healthy_deadline, "it was waited for"
    serving = world.serving()
    assert serving is not None
    assert serving.reference == "app:b"


def returning(target: str) -> World:
    """Return a host that served `app:a` while it could not read Consul, and reads that the fleet bakes *target*."""
    world = serving_a()
    world.consul.away = "unknown"
    world.monitor.activate(target)
    world.consul.begin_rollout(target, source_of(world))
    for step in (Phase.READY, Phase.SWITCHING, Phase.BAKING):
        world.consul.enter(step)
    world.run_for(5)
    assert is_ready(world)
    world.consul.away = ""
    return world


def test_a_host_that_missed_the_staging_catches_up_before_it_serves_again() -> None:
    """Holders of the target would be moved by it, and then back."""
    world = returning("app:b")
    world.run_for(1)
    assert gate(world) is ReadinessGate.CLOSED
    assert world.run_for(20, lambda: is_ready(world))
    serving = world.serving()
    assert serving is not None
    assert serving.reference == "app:b"
    assert all(slot in world.proxy.process.pins for slot in SlotName)


def test_a_host_that_cannot_catch_up_goes_on_with_what_it_serves() -> None:
    """A release that is no good may not take hosts out of traffic for longer than its checks take."""
    world = returning("app:e-exits")
    assert world.run_for(20, lambda: gate(world) is ReadinessGate.CLOSED)
    assert world.run_for(20, lambda: is_ready(world))


def test_a_member_stays_ready_though_the_target_dies_at_the_commit() -> None:
    """It had both: what is wrong with a release may not close every gate at once."""
    world = staged()
    held = next(c for c in world.docker.containers_by_id.values() if c.reference == "app:b")
    world.monitor.activate("app:b")
    world.docker.exit(held.id, 1)
    world.consul.enter(Phase.READY)
    world.consul.enter(Phase.SWITCHING)
    for _ in range(100):
        world.step()
        assert gate(world) is ReadinessGate.OPEN


def test_the_end_of_the_bake_lets_a_joiner_in_that_lacks_the_source() -> None:
    """Nobody uses the source any more."""
    world = booting(Phase.BAKING, source="app:r-away")
    world.run_for(10)
    assert not is_ready(world)
    world.consul.enter(Phase.RETIRING)
    assert world.run_for(5, lambda: is_ready(world))


def test_a_held_release_that_visitors_use_is_looked_at_each_second() -> None:
    """The fleet waits for its silence, and HAProxy sends no event for a request."""
    world = booting(Phase.BAKING)
    assert world.run_for(30, lambda: is_ready(world))
    world.run_for(5)
    assert world.agent.plan is not None
    assert world.agent.plan.actions == ()
    assert world.agent.plan.look_again_at <= world.now + 1.0


def test_a_closed_gate_alone_is_not_taken_for_leaving() -> None:
    """The coordinator waits for a joiner, and not for a host that was taken out of traffic by its present agent."""
    slots = {slot: SlotReport(phase=SlotPhase.EMPTY) for slot in SlotName}
    report = NodeReport(
        app="cs90",
        node="web-1",
        instance="one",
        agent="0",
        phase=SlotPhase.EMPTY,
        summary="",
        is_ready=False,
        gate=ReadinessGate.CLOSED,
        slots=slots,
    )
    gone = report.model_copy(update={"is_leaving": True})
    node = NodeName("web-1")
    assert not Host(node, "one", report).is_leaving
    assert Host(node, "one", gone).is_leaving
    assert Host(node, "one", gone, gone_s=1.0).is_leaving
    assert not Host(node, "two", gone).is_leaving

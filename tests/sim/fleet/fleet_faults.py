"""What happens to Consul and the coordinators, and what operators do in the middle of a rollout."""

from agent.core.model.record import Phase
from agent.core.rollout import commands
from tests.sim.fleet.host_faults import GRACE_S, set_cut, trouble
from tests.sim.fleet.node import FOREVER, Node
from tests.sim.fleet.requests import strategy_of
from tests.sim.fleet.world import FleetWorld


def consul_away(world: FleetWorld, _: Node) -> None:
    """Lose Consul's quorum for a while."""
    seconds = world.rng.uniform(2, 25)
    for node in world.live:
        trouble(world, node, seconds)
    world.set_consul_away(is_away=True)
    world.clock.after(seconds, lambda: world.set_consul_away(is_away=False))


def snapshot_and_restore(world: FleetWorld, _: Node) -> None:
    """Restore Consul from a snapshot some time after it was taken; somebody adopts it later."""
    world.consul.take_snapshot()

    def restore() -> None:
        world.note("Consul is restored from its snapshot")
        for node in world.nodes.values():
            node.troubled_until = FOREVER
        world.consul.restore()
        world.clock.after(world.rng.uniform(5, 30), adopt)

    def adopt() -> None:
        world.visit_checks.by_hand_at = world.clock.now
        world.needs_adoption = False
        world.operator("restorer").adopt()
        for node in world.nodes.values():
            node.troubled_until = world.clock.now + 2 * GRACE_S

    world.clock.after(world.rng.uniform(5, 40), restore)


def kill_coordinator(world: FleetWorld, _: Node) -> None:
    """Kill whoever leads, or its whole machine."""
    leader = world.leader
    if leader is None:
        return
    leader.kill()
    if world.rng.random() < 0.5:
        world.clock.after(5.5, lambda: world.consul.machine_died(leader.name))
    world.clock.after(world.rng.uniform(1, 25), leader.start)


def stall_coordinator(world: FleetWorld, _: Node) -> None:
    """Let whoever leads hang, at once or just before its next write."""
    leader = world.leader
    if leader is None:
        return
    seconds = world.rng.uniform(5, 45)
    if world.rng.random() < 0.5:
        leader.process.stall(seconds)
    else:
        leader.is_stalling = seconds


def lose_session(world: FleetWorld, _: Node) -> None:
    """End the leader's session though it lives and does not know."""
    leader = world.leader
    if leader is not None:
        world.consul.end_session(leader.session)


def cut_coordinator(world: FleetWorld, _: Node) -> None:
    """Cut whoever leads from Consul."""
    leader = world.leader
    if leader is None:
        return
    seconds = world.rng.uniform(3, 40)
    for node in world.nodes.values():
        if node.link is leader.link:
            trouble(world, node, seconds)
            set_cut(world, node, is_cut=True)
            world.clock.after(seconds, lambda node=node: set_cut(world, node, is_cut=False))  # type: ignore[misc]
    leader.link.is_cut = True
    leader.link.changed()
    world.clock.after(5.5, lambda: world.consul.machine_died(leader.name) if leader.link.is_cut else None)
    world.clock.after(seconds, lambda: setattr(leader.link, "is_cut", False))


def pause(world: FleetWorld, _: Node) -> None:
    """Pause, and resume later."""
    operator = world.operator("pauser")
    operator.submit("pause", commands.pause)
    world.clock.after(world.rng.uniform(3, 40), lambda: operator.submit("resume", commands.resume))


def abort(world: FleetWorld, _: Node) -> None:
    """Abort, or roll back where visitors have seen it."""
    record = world.record_monitor.current
    before = record is None or record.is_before_commit
    operator = world.operator("worrier")
    if before:
        operator.submit("abort", commands.abort)
    else:
        operator.submit("rollback", commands.roll_back)


def edit_keys(world: FleetWorld, _: Node) -> None:
    """Change a key by hand in mid-rollout."""
    if (
        world.record_monitor.in_progress
        and world.record_monitor.current
        and world.record_monitor.current.phase is not Phase.PENDING
    ):
        key = world.rng.choice(("active", "stage"))
        world.operator("hand").put(**{key: world.rng.choice(("app:a", "app:b", "app:h"))})


def other_deploy(world: FleetWorld, _: Node) -> None:
    """Let another operator deploy something else meanwhile."""
    world.operator("rival").deploy(f"app:z{world.rng.randrange(3)}", strategy_of(world.rng))

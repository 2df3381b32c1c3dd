"""All that may happen to a fleet, by name, and the end of it all. Victims are drawn from the world's rng."""

from collections.abc import Callable

from tests.sim.fleet import fleet_faults, host_faults
from tests.sim.fleet.host_faults import set_cut
from tests.sim.fleet.node import Node
from tests.sim.fleet.world import FleetWorld


def _some(world: FleetWorld) -> Node | None:
    live = world.live
    return world.rng.choice(live) if live else None


DEEDS: dict[str, Callable[[FleetWorld, Node], None]] = {
    deed.__name__: deed
    for deed in (
        host_faults.crash_agent,
        host_faults.kill_agent,
        host_faults.stall_agent,
        host_faults.reboot,
        host_faults.lose,
        host_faults.join,
        host_faults.reuse_name,
        host_faults.leave,
        host_faults.partition,
        host_faults.lossy,
        host_faults.slow,
        host_faults.deaf,
        host_faults.docker_away,
        host_faults.haproxy_away,
        host_faults.haproxy_restart,
        host_faults.haproxy_reload,
        host_faults.container_dies,
        fleet_faults.consul_away,
        fleet_faults.snapshot_and_restore,
        fleet_faults.kill_coordinator,
        fleet_faults.stall_coordinator,
        fleet_faults.lose_session,
        fleet_faults.cut_coordinator,
        fleet_faults.pause,
        fleet_faults.abort,
        fleet_faults.edit_keys,
        fleet_faults.other_deploy,
    )
}


def inject_fault(world: FleetWorld, name: str) -> None:
    """Let one deed happen now."""
    node = _some(world)
    if node is not None and not world.is_healed:
        world.faults += 1
        world.fault_came()
        world.note(f"fault {name} ({node.name})")
        DEEDS[name](world, node)


def heal(world: FleetWorld) -> None:
    """End all faults that last, and let no more come."""
    world.is_healed = True
    was_away = world.consul.is_away
    if was_away:
        world.set_consul_away(is_away=False)
    for node in world.nodes.values():
        _heal_host(world, node)
    for candidate in world.coordinators:
        candidate.link.is_cut, candidate.link.lossy, candidate.link.slow_s = False, 0.0, 0.0
        candidate.start()


def _heal_host(world: FleetWorld, node: Node) -> None:
    node.link.lossy, node.link.slow_s, node.link.is_deaf = 0.0, 0.0, False
    node.agent.set_leaving(leaving=False)
    node.docker.set_away(is_away=False)
    node.proxy.down = False
    if node.link.is_cut:
        set_cut(world, node, is_cut=False)
    if not node.is_up and not node.is_gone:
        node.boot()

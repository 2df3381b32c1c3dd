"""What happens to one host: each deed ends by itself after a while, and says how long its visitors may notice."""

from agent.adapters.consul.services import CheckStatus
from agent.core.model.names import SlotName
from tests.sim.fleet.node import Node
from tests.sim.fleet.world import FleetWorld

GRACE_S = 30.0
"""After a fault a host needs this long to be as before it: to read, to stage, to close or open its gate."""


def trouble(world: FleetWorld, node: Node, lasts_s: float) -> None:
    node.troubled_until = max(node.troubled_until, world.clock.now + lasts_s + GRACE_S)


def crash_agent(world: FleetWorld, node: Node) -> None:
    """Kill the agent between two steps of its next plan that does something."""
    if node.is_agent_up:
        node.agent.steps_left = world.rng.randrange(9)


def kill_agent(world: FleetWorld, node: Node) -> None:
    """Kill the agent now; it comes back, with its journal or without."""
    back_s = world.rng.choice((0.5, 3.0, 20.0))
    node.kill_agent(back_s, wiped=world.rng.random() < 0.3)


def stall_agent(world: FleetWorld, node: Node) -> None:
    """Let the agent hang."""
    seconds = world.rng.uniform(2, 30)
    trouble(world, node, seconds)
    node.process.stall(seconds)


def reboot(world: FleetWorld, node: Node) -> None:
    """Reboot a host, or cut its power for a while; sometimes its disk is new."""
    world.churn += 1
    node.power_off()
    down_s, wiped = world.rng.choice((3.0, 8.0, 25.0)), world.rng.random() < 0.2
    world.clock.after(down_s, lambda: node.boot(wiped=wiped))


def lose(world: FleetWorld, node: Node) -> None:
    """Lose a host for ever."""
    if len(world.live) > 2:
        world.churn += 1
        node.power_off(for_ever=True)


def join(world: FleetWorld, _: Node) -> None:
    """Let a host join."""
    world.churn += 1
    world.add_node(f"web-{len(world.nodes) + 1}").boot()


def reuse_name(world: FleetWorld, node: Node) -> None:
    """Lose a host; another machine comes under its name."""
    world.churn += 1
    node.power_off(for_ever=True)

    def come() -> None:
        if world.nodes[node.name] is node:
            world.add_node(node.name).boot()

    world.clock.after(world.rng.uniform(8, 30), come)


def leave(world: FleetWorld, node: Node) -> None:
    """Take a host out of traffic; then it goes for ever, or comes back."""
    if len(world.live) < 3:
        return
    world.churn += 1
    node.agent.set_leaving(leaving=True)
    returns = world.rng.random() < 0.4

    def go_on() -> None:
        node.agent.set_leaving(leaving=False)
        if not returns:
            node.power_off(for_ever=True)
            world.consul.machine_died(node.name)
            world.consul.deregister(node.name)

    world.clock.after(world.rng.uniform(4, 15), go_on)


def partition(world: FleetWorld, node: Node) -> None:
    """Cut a host, or a few, from Consul."""
    more = world.rng.choice((0, 0, 1, 2))
    for victim in {node, *(world.rng.choice(world.live) for _ in range(more) if world.live)}:
        seconds = world.rng.choice((2.0, 8.0, 20.0, 45.0))
        trouble(world, victim, seconds)
        set_cut(world, victim, is_cut=True)
        world.clock.after(seconds, lambda victim=victim: set_cut(world, victim, is_cut=False))  # type: ignore[misc]


def set_cut(world: FleetWorld, node: Node, *, is_cut: bool) -> None:
    node.link.is_cut = is_cut
    node.link.changed()
    run = node.boots, node.starts
    if is_cut:
        world.clock.after(5.5, lambda: world.consul.machine_died(node.name) if node.link.is_cut else None)
    elif node.is_agent_up:
        world.clock.after(1.5, lambda: _seen_again(world, node, run))


def _seen_again(world: FleetWorld, node: Node, run: tuple[int, int]) -> None:
    if node.is_agent_up and not node.link.is_cut and run == (node.boots, node.starts):
        world.consul.set_status(node.name, CheckStatus.PASSING)


def lossy(world: FleetWorld, node: Node) -> None:
    """Lose requests and answers of a host and of all coordinators for a while."""
    links = [node.link, *(each.link for each in world.coordinators)]
    share, seconds = world.rng.choice((0.1, 0.3)), world.rng.uniform(5, 25)
    trouble(world, node, seconds)
    for_a_while(world, seconds, [(link, "lossy", share, 0.0) for link in links])


def slow(world: FleetWorld, node: Node) -> None:
    """Let answers to a host, and to coordinators, be late."""
    links = [node.link, *(each.link for each in world.coordinators)]
    late_s, seconds = world.rng.choice((0.3, 2.0)), world.rng.uniform(5, 25)
    trouble(world, node, seconds)
    for_a_while(world, seconds, [(link, "slow_s", late_s, 0.0) for link in links])


def deaf(world: FleetWorld, node: Node) -> None:
    """Let a host's blocking query be woken by nothing but the end of its wait."""
    seconds = world.rng.uniform(5, 40)
    trouble(world, node, seconds + 60)
    for_a_while(world, seconds, [(node.link, "is_deaf", True, False)])


def for_a_while(world: FleetWorld, seconds: float, changes: list[tuple[object, str, object, object]]) -> None:
    for what, name, value, _ in changes:
        setattr(what, name, value)

    def end() -> None:
        for what, name, _, back in changes:
            setattr(what, name, back)

    world.clock.after(seconds, end)


def docker_away(world: FleetWorld, node: Node) -> None:
    """Let Docker give no answer for a while."""
    seconds = world.rng.uniform(2, 15)
    node.docker.set_away(is_away=True)
    world.clock.after(seconds, lambda: node.docker.set_away(is_away=False))


def haproxy_away(world: FleetWorld, node: Node) -> None:
    """Let HAProxy be down for a moment; its supervisor starts it again from its files."""
    seconds = world.rng.uniform(0.5, 4)
    trouble(world, node, seconds)
    node.sync()
    node.proxy.down = True
    node.proxy.requests.clear()

    def back() -> None:
        node.sync()
        node.proxy.down = False
        node.proxy.restart(keep=True)

    world.clock.after(seconds, back)


def haproxy_restart(world: FleetWorld, node: Node) -> None:
    """Crash HAProxy; sometimes its server states are lost, too."""
    trouble(world, node, 0)
    node.sync()
    node.proxy.restart(keep=world.rng.random() < 0.5)


def haproxy_reload(world: FleetWorld, node: Node) -> None:
    """Reload HAProxy; its old worker goes on with what is open."""
    trouble(world, node, 0)
    node.sync()
    node.proxy.reload()


def container_dies(world: FleetWorld, node: Node) -> None:
    """Let a container die."""
    trouble(world, node, 0)
    occupant = node.docker.in_slot(world.rng.choice(list(SlotName)))
    if occupant is not None:
        node.let_die(occupant.id)

"""Random schedules of what happens to a simulated host, and the run of one."""

from collections.abc import Callable

from hypothesis import strategies as st

from agent.core.model.names import SlotName
from tests.sim.host import operator_model as host
from tests.sim.host.agent import Bug
from tests.sim.host.world import World

Deed = tuple[str, object]
Schedule = list[tuple[Deed, float]]

IMAGES = (*host.GOOD, *host.BAD)

BY_HAND = st.one_of(
    st.tuples(st.just("stage"), st.sampled_from(IMAGES)),
    st.tuples(st.just("activate"), st.sampled_from(IMAGES)),
    st.tuples(st.just("activate"), st.sampled_from(host.GOOD)),
    st.tuples(st.just("stage_and_activate"), st.sampled_from(host.GOOD)),
    st.tuples(st.just("withdraw"), st.none()),
    st.tuples(st.just("deploy"), st.sampled_from(IMAGES)),
    st.tuples(st.just("abort"), st.none()),
)
FAULT = st.one_of(
    st.tuples(st.just("kill"), st.integers(0, 8)),
    st.tuples(st.just("wipe"), st.none()),
    st.tuples(st.just("reload"), st.none()),
    st.tuples(st.just("restart_proxy"), st.booleans()),
    st.tuples(st.just("die"), st.sampled_from(SlotName)),
    st.tuples(st.just("remove"), st.sampled_from(SlotName)),
    st.tuples(st.just("docker"), st.booleans()),
    st.tuples(st.just("haproxy"), st.booleans()),
    st.tuples(st.just("consul"), st.sampled_from(["", "unknown", "forbidden"])),
    st.tuples(st.just("master"), st.booleans()),
    st.tuples(st.just("leaving"), st.booleans()),
    st.tuples(st.just("silence"), st.integers(0, 4)),
    st.tuples(st.just("snapshot"), st.none()),
    st.tuples(st.just("restore"), st.none()),
)
WAIT = st.sampled_from([0.1, 0.3, 1.0, 1.5, 2.5, 4.0, 6.0, 12.0, 25.0])
SCHEDULES = st.lists(st.tuples(st.one_of(BY_HAND, FAULT), WAIT), min_size=3, max_size=14)


def run(schedule: Schedule, seed: int = 0, bug: Bug | None = None) -> World:
    """Boot a host on `app:a`, let *schedule* befall it, and return it as it is then."""
    world = World(seed, bug or Bug())
    world.run_for(0.5)
    host.activate(world, "app:a")
    world.run_for(5.0)
    for deed, wait_s in schedule:
        inject_fault(world, deed)
        end = world.now + wait_s
        while world.now < end:
            world.step()
            host.coordinate(world)
    return world


def inject_fault(world: World, deed: Deed) -> None:
    """Let one thing happen."""
    name, what = deed
    DEEDS[name](world, what)


def _stage_and_activate(world: World, what: object) -> None:
    host.stage(world, str(what))
    world.run_for(4.0)
    host.activate(world, str(what))


def _silence(world: World, what: object) -> None:
    world.visitors[int(str(what))].silent_until = world.now + 3.0


def _haproxy(world: World, what: object) -> None:
    world.proxy.down = bool(what)
    if world.proxy.down:
        world.excuse_all()


DEEDS: dict[str, Callable[[World, object], object]] = {
    "stage": lambda world, what: host.stage(world, str(what)),
    "activate": lambda world, what: host.activate(world, str(what)),
    "stage_and_activate": _stage_and_activate,
    "withdraw": lambda world, _: host.withdraw(world),
    "deploy": lambda world, what: host.deploy(world, str(what)),
    "abort": lambda world, _: host.abort(world),
    "kill": lambda world, what: host.kill(world, int(str(what))),
    "wipe": lambda world, _: host.wipe(world),
    "reload": lambda world, _: host.reload(world),
    "restart_proxy": lambda world, what: host.restart_proxy(world, keep=bool(what)),
    "die": lambda world, what: host.die(world, SlotName(str(what))),
    "remove": lambda world, what: host.remove(world, SlotName(str(what))),
    "docker": lambda world, what: world.docker.set_away(is_away=bool(what)),
    "haproxy": _haproxy,
    "consul": lambda world, what: setattr(world.consul, "away", str(what)),
    "master": lambda world, what: setattr(world.proxy, "master_answers", bool(what)),
    "leaving": lambda world, what: setattr(world, "leaving", bool(what)),
    "silence": _silence,
    "snapshot": lambda world, _: world.consul.take_snapshot(),
    "restore": lambda world, _: host.restore(world),
}

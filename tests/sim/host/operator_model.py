"""What happens to a simulated host: operators, a coordinator's record, and faults; and its way back to rest."""

from agent.core.host.desired import DesiredRelease
from agent.core.model.names import SlotName
from agent.core.model.record import Phase, RecordedRelease, RolloutRecord, read_record
from agent.core.model.spec import RunSpec
from agent.core.model.states import AdminState
from tests.sim.host.consul_model import recorded
from tests.sim.host.world import World

GOOD = ("app:a", "app:b", "app:c", "app:s-slow")
BAD = ("app:n-never", "app:e-exits", "app:u-unknown")


def stage(world: World, reference: str) -> None:
    """Put stage/image by hand."""
    world.consul.put(stage=reference)


def activate(world: World, reference: str) -> None:
    """Put active/image by hand."""
    if not _in_progress(world):
        world.monitor.activate(reference)
        world.consul.put(active=reference)


def withdraw(world: World) -> None:
    """Set stage/image to the value of active/image."""
    active = world.consul.get("active")
    if active is not None:
        world.consul.put(stage=active)


def _in_progress(world: World) -> bool:
    record = world.consul.record
    return record is not None and not record.phase.is_terminal


def deploy(world: World, reference: str) -> None:
    """Begin a rollout, unless one or a change by hand is under way."""
    serving = world.serving()
    if _in_progress(world) or serving is None or len(world.docker.containers_by_id) != 1 or world.proxy.old:
        return
    stale = world.consul.get("active") != serving.reference or reference == serving.reference
    if stale or world.consul.away:
        return
    pin = world.proxy.process.pins.get(serving.slot, serving.pin)
    source = RecordedRelease(image=serving.reference, spec=RunSpec(), release=serving.release, pin=pin)
    world.consul.begin_rollout(reference, source)


def coordinate(world: World) -> None:
    """Advance the record as a coordinator with one member would."""
    record = world.consul.record
    if record is None or record.phase.is_terminal or record.target is None or record.source is None:
        return
    if world.phase_seen != record.version:
        world.phase_seen, world.phase_since = record.version, world.now
    phase = _next_phase(world, record.phase, record.target, record.source)
    if phase is Phase.SWITCHING:
        world.monitor.activate(record.target.image)
    if phase is not None:
        world.consul.enter(phase)


def _next_phase(world: World, phase: Phase, to: RecordedRelease, back: RecordedRelease) -> Phase | None:
    by_release = {c.release: c for c in world.docker.containers_by_id.values()}
    target, source = by_release.get(to.release), by_release.get(back.release)
    servers, memory = world.proxy.process.servers, world.agent.memory
    failed = any(key.startswith(to.release) for key in memory.failures)
    late = world.now - world.phase_since >= world.app.knobs.drain_timeout
    serves = target is not None and servers[target.slot].takes_new and not servers[target.slot.other].takes_new
    staged = target is not None and memory.slot(target.slot).staged and servers[target.slot].status == "DRAIN"
    due = {
        Phase.STAGING: (staged and not failed, Phase.READY),
        Phase.READY: (True, Phase.SWITCHING),
        Phase.SWITCHING: (serves, Phase.BAKING),
        Phase.BAKING: (late or source is None or _is_quiet(world, source.slot), Phase.RETIRING),
        Phase.RETIRING: (late or source is None, Phase.SUCCESSFUL),
        Phase.ABORTING: (target is None, Phase.ABORTED),
        Phase.ROLLING_BACK: (source is not None and servers[source.slot].takes_new, Phase.ROLLED_BACK),
    }
    if phase is Phase.STAGING and (failed or late):
        return Phase.ABORTING
    is_due, following = due[phase]
    return following if is_due else None


def _is_quiet(world: World, slot: SlotName) -> bool:
    srv = world.proxy.process.servers[slot]
    seen = world.proxy.process.started if srv.last_request is None else srv.last_request
    busy = world.proxy.open_on(slot) or world.proxy.old or srv.admin is AdminState.READY
    return not busy and world.now - seen >= world.app.knobs.visit_idle


def abort(world: World) -> None:
    """Abort before the commit, roll back after it."""
    record = world.consul.record
    if record is None or record.target is None or record.source is None:
        return
    if record.phase in (Phase.STAGING, Phase.READY):
        world.consul.enter(Phase.ABORTING)
    elif record.phase in (Phase.SWITCHING, Phase.BAKING):
        world.monitor.activate(record.source.image)
        world.consul.enter(Phase.ROLLING_BACK)


def restore(world: World) -> None:
    """Restore a snapshot of Consul: an agent that still has its journal holds against it."""
    world.restored = world.consul.has_saved
    world.consul.restore_snapshot()
    world.monitor.activate(world.consul.get("active") or "")


def adopt(world: World) -> None:
    """Do what `tidegate adopt` does: a terminal record of a higher generation accepts what the keys say now."""
    seen = world.agent.memory.last_applied.rollout
    generations = [read_record(seen.value).generation] if seen else []
    generations += [world.consul.record.generation] if world.consul.record else []
    active = world.consul.get("active")
    if active is not None:
        target = recorded(active, max(generations, default=0) + 1)
        generation = max(generations, default=0) + 1
        record = RolloutRecord(generation=generation, seq=1, phase=Phase.SUCCESSFUL, target=target)
        world.consul.write_record(record, active=active, stage=active)


def kill(world: World, steps: int) -> None:
    """Let the agent die after *steps* steps of its next plan that does something."""
    world.agent.steps_left = steps


def wipe(world: World) -> None:
    """Let the agent die and lose its journal."""
    world.agent.kill()
    world.start_agent(wiped=True)


def reload(world: World) -> None:
    """Reload HAProxy."""
    world.proxy.reload()
    _excuse_unsaved(world)


def restart_proxy(world: World, *, keep: bool) -> None:
    """Crash HAProxy; without *keep* the server-state file is lost, too."""
    world.proxy.restart(keep=keep)
    if keep:
        _excuse_unsaved(world)
    else:
        world.excuse_all()


def _excuse_unsaved(world: World) -> None:
    """A crash between a command and the state file takes back what was not saved."""
    if world.agent.steps_left is not None or world.agent.plan is None or not world.proxy.is_saved:
        world.excuse_all()


def die(world: World, slot: SlotName) -> None:
    """Let the process of the container in *slot* die."""
    occupant = world.docker.in_slot(slot)
    if occupant is not None:
        world.monitor.excused.add(occupant.id)
        world.docker.exit(occupant.id, 137)


def remove(world: World, slot: SlotName) -> None:
    """Remove the container in *slot* by hand."""
    occupant = world.occupant(slot)
    if occupant is not None and not world.agent.jobs.under_way():
        world.excuse_all()
        world.docker.forget(occupant.id)


def heal(world: World) -> None:
    """End all faults."""
    world.docker.set_away(is_away=False)
    world.proxy.down = world.leaving = False
    world.proxy.master_answers = True
    world.consul.away = ""
    world.docker.sick.clear()


def settle(world: World) -> bool:
    """End all faults and wait until the agent has nothing more to do, at most a bound made of the knobs."""
    heal(world)
    if world.restored:
        adopt(world)
    timings = world.app.knobs
    bound = 2 * (timings.drain_timeout + timings.stop_grace_period + timings.healthy_deadline + timings.visit_idle) + 90
    quiet_since = [world.now, world.agent.ticks_with_actions]

    def rests() -> bool:
        coordinate(world)
        if world.agent.ticks_with_actions != quiet_since[1] or world.agent.jobs.under_way() or _in_progress(world):
            quiet_since[:] = [world.now, world.agent.ticks_with_actions]
        return world.now - quiet_since[0] > 31.0

    return world.run_for(bound, rests)


def is_converged(world: World) -> str:
    """Say what is not as desired; empty when all is."""
    desired = world.agent.desired
    assert desired is not None
    if not isinstance(desired.serve, DesiredRelease):
        return ""
    wanted = [desired.serve.reference] + ([desired.hold.reference] if desired.hold else [])
    failed = {key.split("#")[0] for key in world.agent.memory.failures}
    if desired.serve.reference in failed or desired.serve.release in failed:
        return ""
    if desired.hold and (desired.hold.reference in failed or desired.hold.release in failed):
        wanted.pop()
    possible = [reference for reference in wanted if reference in GOOD]
    present = sorted(container.reference for container in world.docker.containers_by_id.values())
    serving = world.serving()
    if desired.serve.reference in GOOD and (serving is None or serving.reference != desired.serve.reference):
        return f"{desired.serve.reference} should serve, {serving} does"
    if desired.serve.reference in GOOD and present != sorted(possible):
        return f"containers {present}, wanted {possible}"
    slots = {container.slot for container in world.docker.containers_by_id.values()}
    if desired.serve.reference in GOOD and set(world.proxy.process.pins) != slots:
        return f"pins {dict(world.proxy.process.pins)} for slots {slots}"
    return ""

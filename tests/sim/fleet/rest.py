"""What a fleet must have come to when all faults ended: L2, L5, and the audit entries (S13)."""

from collections.abc import Iterator

from agent.core.model import keys
from agent.core.model.record import Phase, RecordedRelease
from agent.core.model.states import ReadinessGate
from tests.sim.fleet.names import APP
from tests.sim.fleet.node import Node
from tests.sim.fleet.world import FleetWorld


def at_rest(world: FleetWorld) -> bool:
    """Whether no host has anything left to do."""
    return not world.record_monitor.in_progress and all(_rests(node) for node in world.live)


def _rests(node: Node) -> bool:
    plan = node.agent.plan
    busy = node.agent.jobs.under_way() or len(node.docker.containers_by_id) > 1 or node.proxy.old
    return node.is_agent_up and plan is not None and not plan.actions and not busy and node.says_ready


def unsettled(world: FleetWorld) -> Iterator[tuple[str, str]]:
    """L2: all hosts serve the target, or all the source, or a person has to decide."""
    record = world.record_monitor.current
    if record is None or record.phase is Phase.ROLLBACK_FAILED:
        return
    if not record.phase.is_terminal:
        yield "L1", f"rollout {record.generation} is still {record.phase} though all faults ended"
        return
    final = record.final
    for node in world.live:
        if (problem := _not_as_decided(node, final)) != "":
            yield "L2", f"{node.name}: {problem}; {record.phase}, final {final.image if final else None}"


def _not_as_decided(node: Node, final: RecordedRelease | None) -> str:
    serving = node.serving()
    if final is None:
        return ""
    if any(key.startswith(final.release) for key in node.agent.memory.failures):
        return ""
    if serving is None and _is_sick(node, final):
        return ""  # it came to visitors as the first release there was, and is no good
    if serving is None:
        return f"serves nothing ({node.agent.plan.views if node.agent.plan else None})"
    if serving.release != final.release:
        return f"serves {serving.reference}"
    return "" if node.says_ready else f"not ready, gate {node.proxy.process.gate}"


def _is_sick(node: Node, final: RecordedRelease) -> bool:
    return any(c.release == final.release and c.id in node.docker.sick for c in node.docker.containers_by_id.values())


def leftovers(world: FleetWorld) -> Iterator[tuple[str, str]]:
    """L5, an hour later: keys of hosts and rollouts that are gone."""
    live = {node.name for node in world.live}
    for key in world.consul.kv:
        if key.startswith(keys.node_reports(APP)) and key.rpartition("/")[2] not in live:
            yield "L5", f"key {key} is left, and the host is gone for an hour"
        if key.startswith(keys.rollouts(APP)):
            yield "L5", f"key {key} is left, and no rollout is in progress"


def orphans(world: FleetWorld) -> Iterator[tuple[str, str]]:
    """L5 and S13: nothing is left over, and nothing is missing in the history."""
    for node in world.live:
        slots = [occupant.slot for occupant in node.docker.containers_by_id.values()]
        pins = set(node.proxy.process.pins)
        is_decided = (
            world.record_monitor.current is None or world.record_monitor.current.phase is not Phase.ROLLBACK_FAILED
        )
        if len(slots) != len(set(slots)) or (len(slots) > 1 and is_decided):
            shown = [(occupant.reference, occupant.slot) for occupant in node.docker.containers_by_id.values()]
            yield "L5", f"{node.name}: containers {shown} at rest"
        if not pins <= set(slots):
            yield "L5", f"{node.name}: pins {pins} for containers in {slots}"
        if node.proxy.process.gate is ReadinessGate.CLOSED:
            yield "L5", f"{node.name}: its gate is closed at rest"
    if not any(rollout.is_forked for rollout in world.record_monitor.rollouts.values()):
        entries = [key for key in world.consul.kv if key.startswith(keys.histories(APP))]
        if len(entries) != world.record_monitor.writes:
            yield "S13", f"{len(entries)} audit entries for {world.record_monitor.writes} versions of the record"

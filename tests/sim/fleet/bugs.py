"""Bugs to plant into coordinators and commands, one for each invariant that is theirs to keep."""

from collections.abc import Callable
from dataclasses import replace

from agent.core.host.actions import Action, SetState, Switch
from agent.core.host.desired import AsItIs, Want
from agent.core.host.memory import Baseline
from agent.core.host.plan_builder import Situation
from agent.core.host.validate import BootState, Judged, judge
from agent.core.model.keys import KeySnapshot, Known, Outcome, Unknown
from agent.core.model.names import NodeName, SlotName
from agent.core.model.record import Phase
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.states import AdminState, SlotPhase
from agent.core.rollout import commands
from agent.core.rollout.advance import Next, advance
from agent.core.rollout.change import Change, Guard, Write
from agent.core.rollout.commands import InProgressError, Signature
from agent.core.rollout.decision import Decision, Request
from agent.core.rollout.fleet import Fleet, Host
from agent.core.rollout.strategy import Strategy
from agent.core.rollout.transition import Turn
from tests.sim.fleet.record_monitor import HISTORY

Advance = Callable[[Decision, Fleet, float], Next]
VICTIM = NodeName("web-2")


def maint_for_good(action: Action, situation: Situation) -> tuple[Action, ...]:
    """Take out at once, and for good, what visitors may hold."""
    if isinstance(action, Switch):
        return (replace(action, old_to=AdminState.MAINT),)
    if isinstance(action, SetState) and action.state is AdminState.DRAIN:
        return () if situation.memory.slot(action.slot).served else (action,)
    return (action,)


def entering(when: Phase, phase: Phase) -> Advance:
    """Go from one phase to another, whatever the table says."""

    def planted(record: Decision, fleet: Fleet, now: float) -> Next:
        if record.phase is when and record.since is not None:
            return Next(Turn(record, fleet, now).enters(phase, "planted", "planted"))
        return advance(record, fleet, now)

    return planted


def taking_all_for_staged(record: Decision, fleet: Fleet, now: float) -> Next:
    """Commit though hosts still pull."""
    if record.phase not in (Phase.STAGING, Phase.READY) or record.target is None:
        return advance(record, fleet, now)
    staged = SlotReport(
        phase=SlotPhase.STAGED,
        release=record.target.release,
        digest=record.target.image.partition("@")[2],
        state=AdminState.DRAIN,
        is_staged=True,
    )

    def claimed(report: NodeReport) -> NodeReport:
        free = next((name for name, slot in report.slots.items() if slot.state is not AdminState.READY), SlotName.BLUE)
        slots = {**report.slots, free: staged}
        return report.model_copy(update={"slots": slots, "generation": record.generation, "failures": {}})

    hosts = {
        node: replace(host, report=claimed(host.report)) if host.report is not None else host
        for node, host in fleet.hosts.items()
    }
    return advance(record, replace(fleet, hosts=hosts), now)


def ignoring_pauses(record: Decision, fleet: Fleet, now: float) -> Next:
    """Go on though it is paused."""
    return advance(record.but(flags=record.flags.model_copy(update={"paused": False}), paused_at=None), fleet, now)


def never_late(record: Decision, fleet: Fleet, now: float) -> Next:
    """Know no deadlines."""
    return advance(record.but(deadline=None) if record.since is not None else record, fleet, now)


def counting_anew_for_joiners(record: Decision, fleet: Fleet, now: float) -> Next:
    """Give everybody more time whenever a host joins."""
    turn = Turn(record, fleet, now)
    if record.phase is Phase.STAGING and turn.joined and record.deadline is not None:
        deadline = now + record.strategy.progress_deadline
        if deadline > record.deadline + 1:
            return Next(turn.stays("planted", "planted", deadline=deadline))
    return advance(record, fleet, now)


def retiring_at_once(record: Decision, fleet: Fleet, now: float) -> Next:
    """Retire the source though visitors use it."""
    return entering(Phase.BAKING, Phase.RETIRING)(record, fleet, now)


def without_victim(fleet: Fleet) -> Fleet:
    """See all hosts but one."""
    hosts: dict[NodeName, Host] = {node: host for node, host in fleet.hosts.items() if node != VICTIM}
    return replace(fleet, hosts=hosts, members=tuple(node for node in fleet.members if node != VICTIM))


def deaf_victim(outcome: Outcome, baseline: Baseline, node: NodeName, boot: BootState) -> Judged:
    """Let one host follow nothing after what it read first."""
    if node == VICTIM and baseline.active is not None and isinstance(outcome, Known):
        return judge(Unknown("planted"), baseline, node, boot)
    return judge(outcome, baseline, node, boot)


def serving_what_is_staged(outcome: Outcome, baseline: Baseline, node: NodeName, boot: BootState) -> Judged:
    """Give new visitors the target once it is staged."""
    judged = judge(outcome, baseline, node, boot)
    wish = judged.desired
    if wish.hold is None or not isinstance(wish.serve, Want):
        return judged
    return replace(judged, desired=replace(wish, serve=wish.hold, hold=wish.serve))


def follow_anything(outcome: Outcome, baseline: Baseline, node: NodeName, boot: BootState) -> Judged:
    """Follow a record that went back."""
    judged = judge(outcome, Baseline(), node, boot)
    return judge(outcome, baseline, node, boot) if isinstance(judged.desired.serve, AsItIs) else judged


def without_history(writes: tuple[Write, ...]) -> tuple[Write, ...]:
    """Forget the audit entry."""
    return tuple(write for write in writes if not write.key.startswith(HISTORY))


def with_two_entries(writes: tuple[Write, ...]) -> tuple[Write, ...]:
    """Write a second audit entry."""
    entry = next(write for write in writes if write.key.startswith(HISTORY))
    return (*writes, replace(entry, key=f"{entry.key}0", guard=Guard.NONE))


def deploy_over_all(
    keys: KeySnapshot, reports: list[NodeReport], request: Request, strategy: Strategy, by: Signature
) -> Change:
    """Deploy though another rollout is in progress."""
    try:
        return commands.deploy(keys, reports, request, strategy, by)
    except InProgressError as exc:
        generation = exc.record.generation + 1
        record = exc.record.but(generation=generation, seq=0, phase=Phase.PENDING, target=None, since=None)
        return Change(record, "deploy", was=exc.record.phase)

"""Bugs to plant into coordinators and commands, one for each invariant that is theirs to keep."""

from collections.abc import Callable
from dataclasses import replace

from agent.core.host.actions import Action, SetState, Switch
from agent.core.host.desired import DesiredRelease, Unchanged
from agent.core.host.memory import LastApplied
from agent.core.host.plan_builder import DecisionInput
from agent.core.host.validate import BootState, Validated, validate
from agent.core.model.keys import KeySnapshot, Known, Outcome, Unknown
from agent.core.model.names import NodeName, SlotName
from agent.core.model.record import Phase
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.states import AdminState, SlotPhase
from agent.core.rollout import commands
from agent.core.rollout.advance import Transition, advance
from agent.core.rollout.change import Change, Guard, Write
from agent.core.rollout.commands import CommandAuthor, InProgressError
from agent.core.rollout.decision import Decision, Request
from agent.core.rollout.fleet import Fleet, Host
from agent.core.rollout.strategy import Strategy
from agent.core.rollout.transition import TransitionContext
from tests.sim.fleet.record_monitor import HISTORY

Advance = Callable[[Decision, Fleet, float], Transition]
VICTIM = NodeName("web-2")


def maint_for_good(action: Action, decision_input: DecisionInput) -> tuple[Action, ...]:
    """Take out at once, and for good, what visitors may hold."""
    if isinstance(action, Switch):
        return (replace(action, old_to=AdminState.MAINT),)
    if isinstance(action, SetState) and action.state is AdminState.DRAIN:
        return () if decision_input.memory.slot(action.slot).served else (action,)
    return (action,)


def entering(when: Phase, phase: Phase) -> Advance:
    """Go from one phase to another, whatever the table says."""

    def planted(record: Decision, fleet: Fleet, now: float) -> Transition:
        if record.phase is when and record.since is not None:
            return Transition(TransitionContext(record, fleet, now).enters(phase, "planted", "planted"))
        return advance(record, fleet, now)

    return planted


def taking_all_for_staged(record: Decision, fleet: Fleet, now: float) -> Transition:
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


def ignoring_pauses(record: Decision, fleet: Fleet, now: float) -> Transition:
    """Go on though it is paused."""
    return advance(record.replace(flags=record.flags.model_copy(update={"paused": False}), paused_at=None), fleet, now)


def never_late(record: Decision, fleet: Fleet, now: float) -> Transition:
    """Know no deadlines."""
    return advance(record.replace(deadline=None) if record.since is not None else record, fleet, now)


def counting_anew_for_joiners(record: Decision, fleet: Fleet, now: float) -> Transition:
    """Give everybody more time whenever a host joins."""
    context = TransitionContext(record, fleet, now)
    if record.phase is Phase.STAGING and context.joined and record.deadline is not None:
        deadline = now + record.strategy.progress_deadline
        if deadline > record.deadline + 1:
            return Transition(context.stays("planted", "planted", deadline=deadline))
    return advance(record, fleet, now)


def retiring_at_once(record: Decision, fleet: Fleet, now: float) -> Transition:
    """Retire the source though visitors use it."""
    return entering(Phase.BAKING, Phase.RETIRING)(record, fleet, now)


def without_victim(fleet: Fleet) -> Fleet:
    """See all hosts but one."""
    hosts: dict[NodeName, Host] = {node: host for node, host in fleet.hosts.items() if node != VICTIM}
    return replace(fleet, hosts=hosts, members=tuple(node for node in fleet.members if node != VICTIM))


def deaf_victim(outcome: Outcome, last_applied: LastApplied, node: NodeName, boot: BootState) -> Validated:
    """Let one host follow nothing after what it read first."""
    if node == VICTIM and last_applied.active is not None and isinstance(outcome, Known):
        return validate(Unknown("planted"), last_applied, node, boot)
    return validate(outcome, last_applied, node, boot)


def serving_what_is_staged(outcome: Outcome, last_applied: LastApplied, node: NodeName, boot: BootState) -> Validated:
    """Give new visitors the target once it is staged."""
    validated = validate(outcome, last_applied, node, boot)
    release = validated.desired
    if release.hold is None or not isinstance(release.serve, DesiredRelease):
        return validated
    return replace(validated, desired=replace(release, serve=release.hold, hold=release.serve))


def follow_anything(outcome: Outcome, last_applied: LastApplied, node: NodeName, boot: BootState) -> Validated:
    """Follow a record that went back."""
    validated = validate(outcome, LastApplied(), node, boot)
    return validate(outcome, last_applied, node, boot) if isinstance(validated.desired.serve, Unchanged) else validated


def without_history(writes: tuple[Write, ...]) -> tuple[Write, ...]:
    """Forget the audit entry."""
    return tuple(write for write in writes if not write.key.startswith(HISTORY))


def with_two_entries(writes: tuple[Write, ...]) -> tuple[Write, ...]:
    """Write a second audit entry."""
    entry = next(write for write in writes if write.key.startswith(HISTORY))
    return (*writes, replace(entry, key=f"{entry.key}0", guard=Guard.NONE))


def deploy_over_all(
    keys: KeySnapshot, reports: list[NodeReport], request: Request, strategy: Strategy, by: CommandAuthor
) -> Change:
    """Deploy though another rollout is in progress."""
    try:
        return commands.deploy(keys, reports, request, strategy, by)
    except InProgressError as exc:
        generation = exc.record.generation + 1
        record = exc.record.replace(generation=generation, seq=0, phase=Phase.PENDING, target=None, since=None)
        return Change(record, "deploy", was=exc.record.phase)

"""``tidegate rollback``: the flag on the rollout in progress, or a new rollout to a release of before."""

from collections.abc import Awaitable, Callable

from agent.adapters.consul.fleet import FleetReading, read_fleet
from agent.adapters.consul.history import read_history
from agent.cli.options import ConflictOptions, RolloutOptions, WaitUntil
from agent.cli.rollout.find_release import ReleaseRef, find_release, of_recorded
from agent.cli.rollout.operation import DeployRequest, RolloutOperation, warn_without_coordinator, written
from agent.cli.rollout.progress import CommandResult, Direction
from agent.cli.rollout.request import SpecFrom, request_of, spec_of, strategy_of
from agent.cli.views.text import clean
from agent.core.rollout import commands
from agent.core.rollout.decision import Decision


async def roll_back(
    operation: RolloutOperation,
    release: str | None,
    conflict_options: ConflictOptions,
    rollout_options: RolloutOptions,
    wait_until: WaitUntil,
) -> CommandResult:
    """
    Take back what is in progress, or begin the way to an earlier release.

    Raises:
        PermanentError: there is nothing to take back, or nothing recorded goes by the name.
        BusyError: a release is named while a rollout is in progress.
    """
    reading = await read_fleet(operation.session.client, operation.session.app)
    record = commands.current(reading.keys)
    if release is None and record is not None and not record.phase.is_terminal:
        await operation.command(lambda seen: commands.roll_back(seen.keys, operation.by))
        text = f"rollout {record.generation} is being taken back"
        return await _end(operation, text, lambda: operation.follow(WaitUntil.DONE, Direction.BACK))
    found = await _find(operation, reading, release)
    spec = _spec(operation, rollout_options, found, record)
    strategy = strategy_of(rollout_options, operation.session.app_settings)
    end = await operation.begin(
        DeployRequest(
            request_of(found.image, spec, rollout_options), strategy, conflict_options.queue, conflict_options.supersede
        )
    )
    if operation.record is None:
        return end
    text = f"rollout {operation.record.generation} goes back to {found.image}; spec: {spec.origin}"
    return await _end(operation, text, lambda: operation.follow(wait_until))


async def _find(operation: RolloutOperation, reading: FleetReading, release: str | None) -> ReleaseRef:
    if release is None:
        return of_recorded(commands.previous_of(reading.keys))
    history = await read_history(operation.session.client, operation.session.app)
    return find_release(release, commands.current(reading.keys), history, reading.reports.values())


def _spec(
    operation: RolloutOperation, rollout_options: RolloutOptions, found: ReleaseRef, record: Decision | None
) -> SpecFrom:
    """Choose the spec it had; where that is not recorded any more, what ``deploy`` would take."""
    if rollout_options.spec is None and found.spec is not None:
        return SpecFrom(found.spec, "the one it had")
    chosen = spec_of(rollout_options.spec, operation.session.app_settings, record)
    return (
        chosen if rollout_options.spec else SpecFrom(chosen.spec, f"{chosen.origin} (the one it had is not recorded)")
    )


async def _end(operation: RolloutOperation, text: str, follow: Callable[[], Awaitable[CommandResult]]) -> CommandResult:
    await warn_without_coordinator(operation)
    if operation.timeouts.detach:
        return written(operation, clean(text))
    operation.out.tell(clean(text))
    return await follow()

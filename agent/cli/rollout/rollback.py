"""``tidegate rollback``: the flag on the rollout in progress, or a new rollout to a release of before."""

from collections.abc import Awaitable, Callable

from agent.adapters.consul.fleet import FleetReading, read_fleet
from agent.adapters.consul.history import read_history
from agent.cli.options import Goal, Order, Shape
from agent.cli.rollout.find_release import Earlier, earlier, of_recorded
from agent.cli.rollout.operation import Errand, Wish, warn_without_coordinator, written
from agent.cli.rollout.progress import Aim, Verdict
from agent.cli.rollout.request import SpecFrom, request_of, spec_of, strategy_of
from agent.cli.views.text import clean
from agent.core.rollout import commands
from agent.core.rollout.decision import Decision


async def roll_back(errand: Errand, release: str | None, order: Order, shape: Shape, goal: Goal) -> Verdict:
    """
    Take back what is in progress, or begin the way to an earlier release.

    Raises:
        PermanentError: there is nothing to take back, or nothing recorded goes by the name.
        BusyError: a release is named while a rollout is in progress.
    """
    reading = await read_fleet(errand.session.client, errand.session.app)
    record = commands.current(reading.keys)
    if release is None and record is not None and not record.phase.is_terminal:
        await errand.command(lambda seen: commands.roll_back(seen.keys, errand.by))
        words = f"rollout {record.generation} is being taken back"
        return await _end(errand, words, lambda: errand.follow(Goal.DONE, Aim.BACK))
    found = await _find(errand, reading, release)
    spec = _spec(errand, shape, found, record)
    strategy = strategy_of(shape, errand.session.app_settings)
    end = await errand.begin(Wish(request_of(found.image, spec, shape), strategy, order.queue, order.supersede))
    if errand.record is None:
        return end
    words = f"rollout {errand.record.generation} goes back to {found.image}; spec: {spec.origin}"
    return await _end(errand, words, lambda: errand.follow(goal))


async def _find(errand: Errand, reading: FleetReading, release: str | None) -> Earlier:
    if release is None:
        return of_recorded(commands.previous_of(reading.keys))
    history = await read_history(errand.session.client, errand.session.app)
    return earlier(release, commands.current(reading.keys), history, reading.reports.values())


def _spec(errand: Errand, shape: Shape, found: Earlier, record: Decision | None) -> SpecFrom:
    """Choose the spec it had; where that is not recorded any more, what ``deploy`` would take."""
    if shape.spec is None and found.spec is not None:
        return SpecFrom(found.spec, "the one it had")
    chosen = spec_of(shape.spec, errand.session.app_settings, record)
    return chosen if shape.spec else SpecFrom(chosen.spec, f"{chosen.origin} (the one it had is not recorded)")


async def _end(errand: Errand, words: str, follow: Callable[[], Awaitable[Verdict]]) -> Verdict:
    await warn_without_coordinator(errand)
    if errand.patience.detach:
        return written(errand, clean(words))
    errand.out.tell(clean(words))
    return await follow()

"""Whatever befalls a host, Consul or the registry in mid-rollout: visitors do not notice, and the rollout ends well."""

import asyncio
import time

import pytest

from agent.core.record import Phase
from agent.core.rollout.decision import Decision
from tests.cluster.faults import DISASTERS, Disaster
from tests.cluster.machine import Machine, until_ready
from tests.cluster.story import ClusterStory, Shelf
from tests.lab.traffic_record import Outcome

pytestmark = [
    pytest.mark.real,
    pytest.mark.alone,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
FORWARD = (Phase.STAGING, Phase.READY, Phase.AWAITING_PROMOTION, Phase.BAKING, Phase.RETIRING)
PATIENT = ("--progress-deadline", "3m")
"""A rollout that stands still for longer than its deadline is taken back: Consul is away for a minute here."""
WATCHDOG = "[Service]\nWatchdogSec=8\n"
each_disaster = pytest.mark.parametrize("disaster", DISASTERS, ids=lambda disaster: disaster.name.replace(" ", "-"))
USUAL = frozenset(
    {"the agent is killed", "the host loses power", "the host is parted from Consul", "Consul's leader dies"}
)
"""Those of every `make test`; the others take minutes more, and are left to `make test-all`."""
assert {each.name for each in DISASTERS} >= USUAL
each_in_turn = pytest.mark.parametrize(
    "disaster",
    [pytest.param(each, marks=[] if each.name in USUAL else [pytest.mark.full]) for each in DISASTERS],
    ids=lambda disaster: disaster.name.replace(" ", "-"),
)


@each_in_turn
async def test_in_switching(story: ClusterStory, shelf: Shelf, disaster: Disaster) -> None:
    """Two hosts have switched, the third has not: it is held back by a frozen agent until the disaster comes."""
    web = story.cluster.machine("web-3")
    target = shelf.other(story.version)
    async with story.traffic() as traffic:
        await story.deploy(target, "--manual", "--wait", "promotion", *PATIENT)
        await _shorten_watchdog(web, disaster)
        await web.freeze()
        promoted = await story.command("promote", "--reason", "a test", "--detach")
        assert promoted.code == 0, promoted.err
        await story.until_phase(Phase.SWITCHING)
        for name in ("web-1", "web-2"):
            await story.until_serves(story.cluster.machine(name), target)
        promoted_at, struck_at = time.monotonic(), time.monotonic()
        await disaster.strike(story.cluster, web)
        struck_until = time.monotonic()
        await asyncio.sleep(disaster.lasts_s / 2)
        shown = await story.command("status")
        await asyncio.sleep(disaster.lasts_s / 2)
        await disaster.end(story.cluster, web)
        await story.until_phase(Phase.SUCCESSFUL, deadline_s=120)
        await story.until_serves(web, target)
        ended_at = time.monotonic()
        outcome = await traffic.stop()
    print(f"\n{disaster.name}: {ended_at - struck_at:.0f} s, failed {outcome.failed_by_fault}\n{shown.out}{shown.err}")
    if not disaster.is_dark:
        assert "web-3" in shown.out, shown.err
    verdict = await story.verdict(outcome, settle_s=ended_at - promoted_at + 10)
    assert outcome.rate > 100, "so few requests prove nothing"
    assert (verdict.moved_unasked, verdict.moved_back_and_forth, verdict.early, verdict.stale) == (0, 0, 0, 0)
    if disaster.is_deadly:
        _only_what_it_held(outcome, struck_at, struck_until)
    else:
        assert verdict.failed == {}, outcome.failures[:8]


@pytest.mark.full
@each_disaster
@pytest.mark.parametrize("phase", [*FORWARD, Phase.ROLLING_BACK], ids=str)
async def test_in_every_other_phase(story: ClusterStory, shelf: Shelf, phase: Phase, disaster: Disaster) -> None:
    """Forward by a canary that is promoted, or taken back; before the commit it may end as aborted, too."""
    web = story.cluster.machine("web-3")
    target = shelf.other(story.version)
    async with story.traffic() as traffic:
        await _shorten_watchdog(web, disaster)
        await until_ready(web)
        began_at = time.monotonic()
        await story.deploy(target, "--canary", "1", "--detach", *PATIENT)
        await _advance(story, phase)
        if "watchdog" in disaster.name:
            await web.freeze()
        struck_at = time.monotonic()
        await disaster.strike(story.cluster, web)
        struck_until = time.monotonic()
        await asyncio.sleep(disaster.lasts_s)
        await disaster.end(story.cluster, web)
        ended = await _finish(story)
        await until_ready(web, deadline_s=90)
        ended_at = time.monotonic()
        outcome = await traffic.stop()
    allowed = {Phase.ROLLED_BACK} if phase is Phase.ROLLING_BACK else {Phase.SUCCESSFUL, Phase.ROLLED_BACK}
    assert ended in allowed | ({Phase.ABORTED} if phase in (Phase.STAGING, Phase.READY) else set())
    verdict = await story.verdict(outcome, settle_s=ended_at - began_at + 10)
    assert (verdict.moved_unasked, verdict.moved_back_and_forth, verdict.early, verdict.stale) == (0, 0, 0, 0)
    if disaster.is_deadly:
        _only_what_it_held(outcome, struck_at, struck_until)
    else:
        assert verdict.failed == {}, outcome.failures[:8]


async def _advance(story: ClusterStory, phase: Phase) -> None:
    """Bring the rollout that has just begun into *phase*."""
    for each in FORWARD:
        await story.until_reached(each)
        if each is phase:
            return
        if each is Phase.AWAITING_PROMOTION:
            name = "rollback" if phase is Phase.ROLLING_BACK else "promote"
            said = await story.command(name, "--reason", "a test", "--detach")
            assert said.code == 0, said.err
            if phase is Phase.ROLLING_BACK:
                await story.until_reached(phase)
                return


async def _finish(story: ClusterStory) -> Phase:
    """Promote where it waits for that, and wait for the end of the rollout."""

    def is_over(record: Decision) -> bool:
        return record.phase.is_terminal or (record.phase is Phase.AWAITING_PROMOTION and not record.flags.promoted)

    record = await story.until(is_over, deadline_s=150)
    while not record.phase.is_terminal:
        await story.command("promote", "--reason", "a test", "--detach")
        record = await story.until(is_over, deadline_s=150)
    return record.phase


def _only_what_it_held(outcome: Outcome, struck_at: float, struck_until: float) -> None:
    """Fail unless each request that failed was open when the host died."""
    others = [each for each in outcome.failures if each.sent_at > struck_until + 0.3 or each.failed_at < struck_at]
    assert others == []


async def _shorten_watchdog(web: Machine, disaster: Disaster) -> None:
    """The unit's 90 s are too long to wait for; read when the agent starts."""
    if "watchdog" not in disaster.name:
        return
    directory = "/run/systemd/system/tidegate-agent.service.d"
    await web.shell(f"mkdir -p {directory} && printf '{WATCHDOG}' >{directory}/short.conf && systemctl daemon-reload")
    await web.run("systemctl", "restart", "tidegate-agent")

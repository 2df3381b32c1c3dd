"""Whatever befalls a host, Consul or the registry in mid-rollout: visitors do not notice, and the rollout ends well."""

import asyncio
import time

import pytest

from agent.core.record import Phase
from tests.cluster.faults import DISASTERS, Disaster
from tests.cluster.machine import Machine
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
WATCHDOG = "[Service]\nWatchdogSec=8\n"
each_disaster = pytest.mark.parametrize("disaster", DISASTERS, ids=lambda disaster: disaster.name.replace(" ", "-"))


@each_disaster
async def test_in_switching(story: ClusterStory, shelf: Shelf, disaster: Disaster) -> None:
    """Two hosts have switched, the third has not: it is held back by a frozen agent until the disaster comes."""
    web = story.cluster.machine("web-3")
    target = shelf.other(story.version)
    async with story.traffic() as traffic:
        await story.deploy(target, "--manual", "--wait", "promotion")
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

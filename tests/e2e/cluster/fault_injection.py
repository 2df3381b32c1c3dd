"""A fault is injected into one host in mid-rollout: when, what operators were told meanwhile, and what it may cost."""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.machine import Machine
from cluster.scenarios.cluster import ClusterScenario
from cluster.servers.fleet import Said
from cluster.traffic.record import Outcome
from cluster.traffic.verdict import Verdict
from tests.e2e.cluster.faults import Disaster

NOTICED_S = 0.3
"""What was sent this long after a host had died may still have been on its way there."""


@dataclass(frozen=True, slots=True)
class FaultInjection:
    """One disaster, as it went."""

    disaster: Disaster
    web: Machine
    struck_at: float
    struck_until: float
    shown: Said
    """What ``tidegate status`` said meanwhile."""

    def was_told(self) -> None:
        """Fail unless operators could see what the rollout waited for, or that nothing can be known."""
        self._showed(self.disaster.status[1].replace("WEB", self.web.name))

    def was_shown(self) -> None:
        """Fail unless operators saw the host, in whatever state it just was, or that nothing can be known."""
        code, says = self.disaster.status
        self._showed(says if code else rf"(?m)^{self.web.name} +(\w+)")

    def _showed(self, expected: str) -> None:
        text = self.shown.out + self.shown.err
        assert self.shown.code == self.disaster.status[0], f"{self.disaster.name}: {self.shown.code}\n{text}"
        assert re.search(expected, text), f"{self.disaster.name}: no {expected} in\n{text}"

    def explains(self, sent_at: float, failed_at: float) -> bool:
        """Whether a request that failed was open on the host as it died."""
        return self.disaster.is_deadly and sent_at <= self.struck_until + NOTICED_S and failed_at >= self.struck_at


async def inject_fault(scenario: ClusterScenario, web: Machine, disaster: Disaster) -> FaultInjection:
    """Let it strike, ask for the status when it has lasted long enough to be seen, and end it."""
    struck_at = time.monotonic()
    await disaster.inject(scenario.cluster, web)
    struck_until = time.monotonic()
    await asyncio.sleep(disaster.lasts_s)
    shown = await scenario.command("status")
    await disaster.end(scenario.cluster, web)
    print(f"\n{disaster.name}, {web.name}, {time.monotonic() - struck_at:.0f} s:\n{shown.out}{shown.err}")
    return FaultInjection(disaster, web, struck_at, struck_until, shown)


def nothing_lost(outcome: Outcome, verdict: Verdict, injections: Sequence[FaultInjection]) -> None:
    """Fail if anybody was moved, or a request failed that no dying host held."""
    assert (verdict.moved_unasked, verdict.moved_back_and_forth, verdict.early, verdict.stale) == (0, 0, 0, 0), verdict
    lost = [
        each for each in outcome.failures if not any(one.explains(each.sent_at, each.failed_at) for one in injections)
    ]
    assert lost == [], lost[:8]
    print(f"\n{outcome.total:,} requests, {len(outcome.failures)} were open on hosts that died")

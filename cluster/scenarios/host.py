"""What an operator does in a host test, and when: key writes, with the events the verdict is judged by."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.core.model.names import SlotName
from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase
from cluster.servers.consul import ConsulServer
from cluster.servers.host import Host
from cluster.traffic.clients import Mix
from cluster.traffic.record import Outcome
from cluster.traffic.verdict import Event, EventKind, Rules, Verdict, judge

MIX = Mix(visit_min_s=3, visit_max_s=8)
"""Five kinds at once, over 300 requests a second; visits short enough to see whole ones before and after."""
VISIT_IDLE_S = 4.0


@dataclass(slots=True)
class Scenario:
    """One app's keys, the hosts that follow them, and what happened."""

    app: str
    consul: ConsulServer
    hosts: Sequence[Host]
    events: list[Event] = field(default_factory=list)

    async def stage(self, image: str) -> None:
        """Stage by hand; returns when every host has it staged."""
        await self.consul.put(f"{self.app}/stage/image", image)
        for host in self.hosts:
            await host.until(lambda report: phase_of(report, image) is SlotPhase.STAGED, deadline_s=40)

    async def activate(self, image: str) -> None:
        """Activate by hand; returns when every host serves it."""
        self.happened(EventKind.ACTIVATED, image)
        await self.consul.put(f"{self.app}/active/image", image)
        for host in self.hosts:
            await host.until(lambda report: phase_of(report, image) is SlotPhase.SERVING, deadline_s=40)

    async def take_back(self, image: str, to: str) -> None:
        """Set the active image back while the old release is warm."""
        self.happened(EventKind.ROLLED_BACK, image)
        await self.consul.put(f"{self.app}/active/image", to)
        for host in self.hosts:
            await host.until(lambda report: phase_of(report, to) is SlotPhase.SERVING, deadline_s=40)

    async def retired(self, image: str, *, deadline_s: float = 60.0) -> None:
        """Wait until no host holds *image* any more."""
        for host in self.hosts:
            await host.until(lambda report: _has_no(report, image), deadline_s=deadline_s)

    def happened(self, kind: EventKind, image: str) -> None:
        """Note an event of now."""
        self.events.append(Event(kind, version_of(image), time.monotonic()))

    def verdict(self, outcome: Outcome, *, settle_s: float = 2.0) -> Verdict:
        """Judge the whole run."""
        return judge(outcome, self.events, Rules(visit_idle_s=VISIT_IDLE_S, settle_s=settle_s))


def version_of(image: str) -> str:
    """Return what the test app in *image* says it is: the tag's first part."""
    return image.rpartition(":")[2].partition("-")[0]


def phase_of(report: NodeReport, image: str) -> SlotPhase | None:
    """Return what the host does with *image*; None when no slot holds it."""
    slot = slot_of(report, image)
    return None if slot is None else report.slots[slot].phase


def _has_no(report: NodeReport, image: str) -> bool:
    is_known = all(slot.phase is not SlotPhase.UNKNOWN for slot in report.slots.values())
    return is_known and phase_of(report, image) is None


def slot_of(report: NodeReport, image: str) -> SlotName | None:
    """Return the slot that holds *image*."""
    return next((slot for slot, shown in report.slots.items() if shown.image == image), None)


def proven(verdict: Verdict, outcome: Outcome, *, rate: float = 300.0) -> None:
    """Fail unless the run was steady enough to prove something, and nobody lost anything."""
    assert outcome.rate >= rate, f"only {outcome.rate:.0f} requests/s were sent: this proves nothing"
    assert verdict.is_clean, f"{verdict}\n{outcome.failures[:5]}"

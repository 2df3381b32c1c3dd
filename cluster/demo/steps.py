"""The steps of the demo: what an operator does, and what is waited for. It decides nothing about success."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.core.model.names import SlotName
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.states import SlotPhase
from cluster.demo.screen import Picture, Screen
from cluster.demo.servers import ACTIVE_KEY, STAGE_KEY, Lab
from cluster.servers.host import TEST_KNOBS
from cluster.servers.tools import LabError
from cluster.traffic.clients import Mix
from cluster.traffic.generator import Traffic
from cluster.traffic.verdict import Event, EventKind

POLL_S = 0.1
KNOBS = {**TEST_KNOBS, "healthy_deadline": "8s"}


@dataclass(frozen=True, slots=True)
class Pace:
    """How long visits last, and for how many seconds a state is held for a person to see it."""

    mix: Mix
    hold_s: float


UNHURRIED = Pace(Mix(visit_min_s=5, visit_max_s=15), hold_s=4)
BRIEF = Pace(Mix(visit_min_s=2, visit_max_s=5, stream_ms=3000, websocket_s=3), hold_s=1)


@dataclass(slots=True)
class Notes:
    """What the scenario leaves for the verdict; times are monotonic seconds."""

    events: list[Event] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    activated_at: float | None = None
    refusal: str = ""
    lines: tuple[str, ...] = ()


class Scenario:
    """One host from its first boot to a refused image; each step raises LabError where it does not come true."""

    def __init__(self, lab: Lab, screen: Screen, pace: Pace) -> None:
        self.notes = Notes()
        self._host = lab.host
        self._consul = lab.consul
        self._images = lab.images
        self._screen = screen
        self._pace = pace
        self._traffic: Traffic | None = None

    async def boot(self) -> None:
        """Boot the agent on version a, as on a new host."""
        await self._put(ACTIVE_KEY, self._images.a)
        began_at = time.monotonic()
        await self._host.start_agent()
        await self._until(lambda report: _serves(report, self._images.a), "version a serves", deadline_s=30)
        self.notes.phases["boot"] = time.monotonic() - began_at
        self.notes.events.append(Event(EventKind.ACTIVATED, "a", time.monotonic()))
        self._screen.say("the host has booted: a serves", "green")

    async def watch(self, traffic: Traffic) -> None:
        """Let the traffic be seen before anything happens to it."""
        self._traffic = traffic
        await self._hold()

    async def deploy(self) -> None:
        """Stage b, activate it, and wait until a has drained and is gone."""
        slot = await self._stage_b()
        await self._hold()
        await self._activate_b()
        old = SlotName.GREEN if slot is SlotName.BLUE else SlotName.BLUE
        await self._retire_a(old)
        await self._hold()

    async def refuse(self) -> None:
        """Stage an image that never gets healthy, see it refused, and take it back."""
        began_at = await self._put(STAGE_KEY, self._images.bad, "an image that never gets healthy")
        report = await self._until(
            lambda report: _refused(report, self._images.bad) is not None, "the bad image is refused", deadline_s=40
        )
        refused = _refused(report, self._images.bad)
        assert refused is not None
        self.notes.phases["refuse"] = time.monotonic() - began_at
        if not _serves(report, self._images.b):
            raise LabError("b does not serve any more after the bad image was refused")
        self.notes.refusal = self._screen.short(refused.reason)
        self.notes.lines = refused.lines
        self._screen.say(f"refused: {refused.reason}", "green")
        self._screen.tell("the last lines it logged:")
        for line in refused.lines[-3:]:
            self._screen.tell(f"  {line}")
        self._screen.tell("its container is gone; visitors still get b")
        await self._hold()
        await self._put(STAGE_KEY, self._images.b, "the bad image is withdrawn")
        await self._until(_is_settled, "the host has forgotten the bad image", deadline_s=15)

    async def _stage_b(self) -> SlotName:
        began_at = await self._put(STAGE_KEY, self._images.b)
        report = await self._until(
            lambda report: _phase_of(report, self._images.b) is SlotPhase.STAGED, "b is staged", deadline_s=30
        )
        self.notes.phases["stage"] = time.monotonic() - began_at
        self._screen.say("b is staged on the host; no visitor has seen it", "green")
        return next(slot for slot, shown in report.slots.items() if shown.image == self._images.b)

    async def _activate_b(self) -> None:
        activated_at = time.monotonic()
        self.notes.events.append(Event(EventKind.ACTIVATED, "b", activated_at))
        self.notes.activated_at = await self._put(ACTIVE_KEY, self._images.b)
        await self._until(lambda report: _serves(report, self._images.b), "b serves", deadline_s=15)
        self._screen.say("new visitors get b; who began on a stays on a to the end of the visit", "green")

    async def _retire_a(self, old: SlotName) -> None:
        switched_at = time.monotonic()
        report = await self._until(
            lambda report: report.slots[old].phase is not SlotPhase.DRAINING, "a has drained", deadline_s=60
        )
        drained_at = time.monotonic()
        reason = report.slots[old].reason
        self.notes.phases["drain"] = drained_at - switched_at
        if reason.startswith("drain_timeout"):
            self.notes.events.append(Event(EventKind.DEADLINE, "a", drained_at))
        self._screen.say(f"a has drained{f': {reason}' if reason else ''}", "green")
        await self._until(lambda report: report.slots[old].phase is SlotPhase.EMPTY, "a is retired", deadline_s=30)
        self.notes.phases["retire"] = time.monotonic() - drained_at
        self._screen.say("a is retired: its container is gone, its slot is free", "green")

    async def _put(self, key: str, value: str, why: str = "") -> float:
        """Write a key as an operator would; return when."""
        self._screen.say(f"$ consul kv put {key} {value}", "bold")
        if why:
            self._screen.tell(why)
        at = time.monotonic()
        await self._consul.put(key, value)
        return at

    async def _hold(self) -> None:
        until = time.monotonic() + self._pace.hold_s
        while time.monotonic() < until:
            await self._look()
            await asyncio.sleep(POLL_S)

    async def _until(self, condition: Callable[[NodeReport], bool], what: str, *, deadline_s: float) -> NodeReport:
        until = time.monotonic() + deadline_s
        while True:
            report = await self._look()
            if report is not None and condition(report):
                return report
            if time.monotonic() > until:
                seen = report.summary if report else "the agent does not answer"
                raise LabError(f"waited {deadline_s:g} s in vain until {what}; last seen: {self._screen.short(seen)}")
            await asyncio.sleep(POLL_S)

    async def _look(self) -> NodeReport | None:
        report = await self._host.report()
        self._screen.show(Picture(report, self._traffic.snapshot() if self._traffic else None))
        return report


def _phase_of(report: NodeReport, image: str) -> SlotPhase | None:
    return next((shown.phase for shown in report.slots.values() if shown.image == image), None)


def _serves(report: NodeReport, image: str) -> bool:
    return any(
        shown.image == image and shown.phase is SlotPhase.SERVING and shown.is_up for shown in report.slots.values()
    )


def _is_settled(report: NodeReport) -> bool:
    return all(shown.phase in (SlotPhase.SERVING, SlotPhase.EMPTY) for shown in report.slots.values())


def _refused(report: NodeReport, image: str) -> SlotReport | None:
    """Return the slot that shows why *image* was refused, once its container is gone."""
    for shown in report.slots.values():
        if shown.phase is SlotPhase.FAILED and shown.reason.startswith(image) and not shown.container:
            return shown
    return None

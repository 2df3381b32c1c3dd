"""Hosts that do at once what the record says: what a coordinator and an operator see of a fleet, without the fleet."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from agent.adapters.consul.fleet import read_fleet
from agent.adapters.consul.kv import ConsulClient
from agent.core.model import keys
from agent.core.model.errors import TidegateError
from agent.core.model.names import AppName, Digest, NodeName, SlotName
from agent.core.model.record import Phase, RecordedRelease
from agent.core.model.report import FailureReport, NodeReport, SlotReport
from agent.core.model.states import AdminState, SlotPhase
from agent.core.rollout.decision import Decision

TICK_S = 0.03
DIGESTS = {"a": "a" * 64, "b": "b" * 64, "c": "c" * 64}
EMPTY = SlotReport(phase=SlotPhase.EMPTY, state=AdminState.MAINT, open_requests=0, last_request_age_s=None)
LAST_LINES = ("Traceback (most recent call last):", "KeyError: 'DATABASE_URL'")
"""Log lines of a container that cannot be staged."""
BOTH_EMPTY = dict.fromkeys(SlotName, EMPTY)


def digest_of(image: str) -> Digest:
    """Return what the fleet's registry says of an image: its tag's letter, 64 times."""
    return Digest(f"sha256:{DIGESTS.get(image.rpartition(':')[2], 'd' * 64)}")


@dataclass(slots=True)
class FakeHosts:
    """Hosts of which their reports are all there is."""

    client: ConsulClient
    app: AppName
    reports: dict[str, NodeReport] = field(default_factory=dict)
    sick: dict[str, str] = field(default_factory=dict)
    """Hosts that cannot stage the target, with the reason."""
    deaf: set[str] = field(default_factory=set)
    """Hosts that do nothing."""
    stops_at: Phase | None = None
    """They do nothing while the record is in this phase."""

    async def run(self) -> None:
        """Do what the record says for ever, and report it; go on when Consul is back, as hosts do."""
        while True:
            with suppress(TidegateError):
                await self._obey()
            await asyncio.sleep(TICK_S)

    async def report(self, node: str) -> None:
        """Write the report of *node*."""
        document = self.reports[node].model_dump_json(exclude_defaults=True)
        await self.client.put(keys.node_report(self.app, NodeName(node)), document.encode())

    async def _obey(self) -> None:
        record = (await read_fleet(self.client, self.app)).record
        if record is None or record.phase is self.stops_at:
            return
        for node in self.reports.keys() - self.deaf:
            before, self.reports[node] = self.reports[node], obey(record, self.reports[node], sick=self.sick.get(node))
            if self.reports[node] != before:
                await self.report(node)


def empty_hosts(client: ConsulClient, app: AppName, nodes: Iterable[str]) -> FakeHosts:
    """Return hosts that serve nothing yet."""
    reports = {node: first_report(app, node).replace(phase=SlotPhase.EMPTY, slots=BOTH_EMPTY) for node in nodes}
    return FakeHosts(client, app, reports)


def first_report(app: str, node: str, image: str = "registry.example/shop:a") -> NodeReport:
    """Return the report of a host that serves *image*, set by hand."""
    serving = SlotReport(
        phase=SlotPhase.SERVING,
        image=image,
        release="a" * 12,
        digest=digest_of(image),
        pin="0" * 12,
        state=AdminState.READY,
        is_up=True,
    )
    return NodeReport(
        app=app,
        node=node,
        instance=f"{node}-boot",
        agent="1.2.3",
        phase=SlotPhase.SERVING,
        summary="blue serving",
        is_ready=True,
        old_workers=0,
        slots={SlotName.BLUE: serving, SlotName.GREEN: EMPTY},
    )


def obey(record: Decision, before: NodeReport, *, sick: str | None = None) -> NodeReport:
    """Return what a host reports that did at once what *record* asks; *sick*: why it cannot stage the target."""
    report = before.replace(generation=record.generation, seq=record.seq)
    target, source = record.target, record.source
    if target is None or record.phase is Phase.PENDING:
        return report
    if sick and record.phase in {Phase.STAGING, Phase.READY}:
        known = FailureReport(reason=sick, lines=LAST_LINES)
        return report.replace(failures={f"{target.release}#{record.generation}": known})
    slot_of_source = next(
        (name for name, slot in before.slots.items() if source and slot.release == source.release), None
    )
    slot_of_target = next((name for name, slot in before.slots.items() if slot.release == target.release), None)
    other = slot_of_target or (slot_of_source.other if slot_of_source else SlotName.BLUE)
    kept = slot_of_source or other.other
    is_on = record.includes(NodeName(before.node))
    match record.phase:
        case Phase.STAGING | Phase.READY:
            slots = {kept: _serving(source), other: _aside(target, SlotPhase.STAGED)}
        case Phase.CANARY | Phase.AWAITING_PROMOTION | Phase.SWITCHING if not is_on:
            slots = {kept: _serving(source), other: _aside(target, SlotPhase.STAGED)}
        case Phase.CANARY | Phase.AWAITING_PROMOTION | Phase.SWITCHING | Phase.BAKING:
            slots = {kept: _aside(source, SlotPhase.DRAINING), other: _serving(target)}
        case Phase.RETIRING | Phase.SUCCESSFUL:
            slots = {kept: EMPTY, other: _serving(target)}
        case _:
            slots = {kept: _serving(source), other: EMPTY}
    return report.replace(slots=slots, failures={}, phase=slots[kept].phase)


def _serving(release: RecordedRelease | None) -> SlotReport:
    return _slot(release, SlotPhase.SERVING, AdminState.READY)


def _aside(release: RecordedRelease | None, phase: SlotPhase) -> SlotReport:
    shown = _slot(release, phase, AdminState.DRAIN)
    return shown if release is None else shown.replace(open_requests=0, last_request_age_s=600)


def _slot(release: RecordedRelease | None, phase: SlotPhase, state: AdminState) -> SlotReport:
    if release is None:
        return EMPTY
    return SlotReport(
        phase=phase,
        image=release.image,
        release=release.release,
        digest=release.image.partition("@")[2],
        pin=release.pin,
        state=state,
        is_up=state is AdminState.READY,
        is_staged=phase is SlotPhase.STAGED,
    )

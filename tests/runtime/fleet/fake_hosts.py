"""Hosts that do at once what the record says, and report it: what a coordinator sees of a fleet, without the fleet."""

import asyncio
from dataclasses import dataclass, field

from agent.adapters.consul.fleet import read_keys
from agent.adapters.consul.kv import ConsulClient
from agent.core.model import keys
from agent.core.model.errors import TidegateError
from agent.core.model.names import AppName, SlotName, parse_node
from agent.core.model.record import Phase, RecordedRelease, RolloutRecord, read_record
from agent.core.model.report import FailureReport, NodeReport, SlotReport
from agent.core.model.states import AdminState, SlotPhase

_GOES = frozenset({Phase.RETIRING, Phase.SUCCESSFUL})
_BACK = frozenset({Phase.ABORTING, Phase.ABORTED, Phase.ROLLING_BACK, Phase.ROLLED_BACK})
_SWITCHES = frozenset({Phase.CANARY, Phase.AWAITING_PROMOTION, Phase.SWITCHING})


@dataclass(slots=True)
class FakeHost:
    """One host, of which a report is all there is."""

    node: str
    fails: str = ""
    """Why it cannot stage the target; empty: it can."""
    serving: RecordedRelease | None = None

    def report(self, app: AppName, record: RolloutRecord | None) -> NodeReport:
        """Return what the host would say once it has done what *record* says."""
        serve, hold = self._wanted(record)
        if serve is not None:
            self.serving = serve
        failures = {}
        if hold is not None and record is not None and hold == record.target and self.fails:
            failures[f"{hold.release}#{record.generation}"] = FailureReport(reason=self.fails, lines=("bye",))
            hold = None
        return NodeReport(
            app=app,
            node=self.node,
            instance=f"{self.node}-boot",
            agent="1",
            generation=record.generation if record else 0,
            seq=record.seq if record else 0,
            phase=SlotPhase.SERVING,
            summary="a puppet",
            is_ready=True,
            old_workers=0,
            failures=failures,
            slots={SlotName.BLUE: _slot(self.serving, serves=True), SlotName.GREEN: _slot(hold, serves=False)},
        )

    def _wanted(self, record: RolloutRecord | None) -> tuple[RecordedRelease | None, RecordedRelease | None]:
        if record is None or record.phase is Phase.PENDING:
            return self.serving, None
        switched = record.phase in {Phase.BAKING, *_GOES} or (
            record.phase in _SWITCHES and record.includes(parse_node(self.node))
        )
        if record.phase in _BACK:
            return record.source, None
        if switched:
            return record.target, None if record.phase in _GOES else record.source
        return record.source, record.target


def _slot(release: RecordedRelease | None, *, serves: bool) -> SlotReport:
    if release is None:
        return SlotReport(phase=SlotPhase.EMPTY, state=AdminState.MAINT)
    return SlotReport(
        phase=SlotPhase.SERVING if serves else SlotPhase.STAGED,
        image=release.image,
        release=release.release,
        digest=release.image.partition("@")[2],
        pin=release.pin,
        state=AdminState.READY if serves else AdminState.DRAIN,
        is_up=serves,
        is_staged=not serves,
        open_requests=None if serves else 0,
        last_request_age_s=None if serves else 600,
    )


@dataclass(slots=True)
class FakeHosts:
    """Lets fake hosts follow the record for as long as it runs."""

    client: ConsulClient
    app: AppName
    hosts: list[FakeHost] = field(default_factory=list)

    async def run(self) -> None:
        """Look at the record every few milliseconds, and report."""
        written: dict[str, NodeReport] = {}
        while True:
            try:
                reading = (await read_keys(self.client, self.app)).rollout
                record = read_record(reading.value) if isinstance(reading, keys.Present) else None
                for fake_host in self.hosts:
                    report = fake_host.report(self.app, record)
                    if written.get(fake_host.node) != report:
                        key = keys.node_report(self.app, parse_node(fake_host.node))
                        await self.client.put(key, report.model_dump_json(exclude_defaults=True).encode())
                        written[fake_host.node] = report
            except TidegateError:
                pass  # as hosts do, they go on when Consul is back
            await asyncio.sleep(0.02)

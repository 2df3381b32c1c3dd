"""
A small fleet for the command line: a Consul, hosts that obey the record at once, and a coordinator, in a thread.

The command line runs in the test's own thread, as an operator's process would; nothing of it is replaced.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agent.adapters.consul.fleet import Fence, FleetReading, read_fleet, write_change
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import AGENT_SERVICE
from agent.adapters.consul.sessions import SessionSpec, create_session
from agent.adapters.consul.transport import Request as HttpRequest
from agent.adapters.consul.transport import TokenSource
from agent.adapters.consul.wire import Op, TxnDone, Verb
from agent.core.model import keys
from agent.core.model.errors import TidegateError
from agent.core.model.keys import Present
from agent.core.model.names import AppName, Digest, NodeName, SlotName
from agent.core.model.record import Phase, RecordedRelease
from agent.core.model.report import FailureReport, NodeReport, SlotReport
from agent.core.model.states import AdminState, SlotPhase
from agent.core.rollout.advance import advance
from agent.core.rollout.change import signed, writes_of
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet, Resolution
from agent.core.rollout.liveness import Liveness, track_liveness
from agent.core.rollout.lock import LockValue

T = TypeVar("T")
TICK_S = 0.03
DIGESTS = {"a": "a" * 64, "b": "b" * 64, "c": "c" * 64}
EMPTY = SlotReport(phase=SlotPhase.EMPTY, state=AdminState.MAINT, open_requests=0, last_request_age_s=None)


def digest_of(image: str) -> Digest:
    """Return what the fleet's registry says of an image: its tag's letter, 64 times."""
    return Digest(f"sha256:{DIGESTS.get(image.rpartition(':')[2], 'd' * 64)}")


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


def obey(record: Decision, before: NodeReport, *, sick: str = "") -> NodeReport:
    """Return what a host reports that did at once what *record* asks; *sick*: why it cannot stage the target."""
    report = before.model_copy(update={"generation": record.generation, "seq": record.seq})
    target, source = record.target, record.source
    if target is None or record.phase is Phase.PENDING:
        return report
    if sick and record.phase in {Phase.STAGING, Phase.READY}:
        lines = ("Traceback (most recent call last):", "KeyError: 'DATABASE_URL'")
        known = FailureReport(reason=sick, lines=lines)
        return report.model_copy(update={"failures": {f"{target.release}#{record.generation}": known}})
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
    return report.model_copy(update={"slots": slots, "failures": {}, "phase": slots[kept].phase})


def _serving(release: RecordedRelease | None) -> SlotReport:
    return _slot(release, SlotPhase.SERVING, AdminState.READY)


def _aside(release: RecordedRelease | None, phase: SlotPhase) -> SlotReport:
    shown = _slot(release, phase, AdminState.DRAIN)
    return shown if release is None else shown.model_copy(update={"open_requests": 0, "last_request_age_s": 600})


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


@dataclass
class FakeFleet:
    """The Consul, who lives there, and a way to do things in its loop."""

    url: str
    app: AppName
    loop: asyncio.AbstractEventLoop
    client: ConsulClient
    reports: dict[str, NodeReport] = field(default_factory=dict)
    sick: dict[str, str] = field(default_factory=dict)
    """Hosts that cannot stage the target, with the reason."""
    goes_to: Phase | None = None
    """The coordinator stops once the record is in this phase; None: it does not."""
    deaf: set[str] = field(default_factory=set)
    """Hosts that do nothing."""

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* in the fleet's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def put(self, key: str, value: str | bytes) -> None:
        """Write a key below the app's root, or a whole key that begins with the app's name."""
        whole = key if key.startswith(self.app) else f"{self.app}/{key}"
        self.do(self.client.put(whole, value if isinstance(value, bytes) else value.encode()))

    def value(self, key: str) -> str | None:
        """Return a key's value."""
        whole = key if key.startswith(self.app) else f"{self.app}/{key}"
        entry = self.do(self.client.get(whole))
        return entry.value.decode() if entry else None

    @property
    def record(self) -> Decision | None:
        """The rollout record."""
        return self.do(self._read()).record

    def until(self, condition: Callable[[Decision], bool], *, within_s: float = 10) -> Decision:
        """Wait until the record meets *condition*; return it."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            record = self.record
            if record is not None and condition(record):
                return record
            time.sleep(TICK_S)
        raise AssertionError(f"not within {within_s} s: {self.record}")

    def host(self, node: str, *, image: str = "registry.example/shop:a") -> None:
        """Let a host live that serves *image*."""
        self.reports[node] = first_report(self.app, node, image)
        self.do(self._report(node))
        self.agent(node, app=self.app)

    def leave(self, node: str) -> None:
        """Let a host leave traffic on purpose."""
        self.reports[node] = self.reports[node].model_copy(update={"is_leaving": True})
        self.do(self._report(node))

    def agent(self, node: str, **meta: str) -> None:
        """Let an agent live, as the catalog shows it; `status` is its check's."""
        status = meta.pop("status", "passing")
        name = f"{self.app}-{node}-agent"
        service = {
            "ID": name,
            "Service": AGENT_SERVICE,
            "Port": 1,
            "Meta": {"node": node, "instance": f"{node}-boot", "version": "1.2.3"} | meta,
        }
        check = {"CheckID": name, "Name": name, "ServiceID": name, "Status": status}
        body = {"Node": f"{self.app}-{node}", "Address": "127.0.0.1", "Service": service, "Check": check}
        self.do(self.client.http.send(HttpRequest("PUT", "/v1/catalog/register", body=json.dumps(body).encode())))

    def coordinate(self) -> None:
        """Let an agent coordinate, from now on."""
        self.agent("core-1", app="", coordinator="true")
        self.do(self._lead())

    async def _lead(self) -> None:
        session = await create_session(self.client, SessionSpec("core-1"))
        value = LockValue(node="core-1", instance="core-1-boot", epoch=1).model_dump_json().encode()
        result = await self.client.txn(Op(Verb.LOCK, keys.coordinator(self.app), value, session=session))
        assert isinstance(result, TxnDone)
        self._task = asyncio.get_running_loop().create_task(self._coordinate(Fence(session)), name="coordinator")

    async def _coordinate(self, fence: Fence) -> None:
        liveness = Liveness()
        while True:
            with suppress(TidegateError):
                liveness = await self._turn(fence, liveness)
            await asyncio.sleep(TICK_S)

    async def _turn(self, fence: Fence, liveness: Liveness) -> Liveness:
        reading = await self._read()
        record = reading.record
        liveness, hosts = track_liveness(liveness, reading.live, reading.reports, time.monotonic())
        if record is None or record.phase is self.goes_to:
            return liveness
        for node in set(self.reports) - self.deaf:
            self.reports[node] = obey(record, self.reports[node], sick=self.sick.get(node, ""))
            await self._report(node)
        active = reading.keys.active
        fleet = Fleet(
            hosts,
            members=reading.members,
            active=active.value if isinstance(active, Present) else None,  # type: ignore[arg-type]
            resolution=Resolution(digest_of(record.request.image)) if record.request else None,
            is_consistent=True,
        )
        change = advance(record, fleet, time.time()).change
        if change is not None:
            writes = writes_of(self.app, signed(change, 1), reading.indexes, by="core-1", now=time.time())
            await write_change(self.client, self.app, writes, fence)
        return liveness

    async def _read(self) -> FleetReading:
        return await read_fleet(self.client, self.app)

    async def _report(self, node: str) -> None:
        key = keys.node_report(self.app, NodeName(node))
        await self.client.put(key, self.reports[node].model_dump_json(exclude_defaults=True).encode())

    async def close(self) -> None:
        """Let the coordinator end."""
        if (task := getattr(self, "_task", None)) is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@contextmanager
def fake_fleet(
    url: Callable[[AsyncExitStack], Coroutine[Any, Any, str]], app: AppName, token: str = ""
) -> Iterator[FakeFleet]:
    """Open a fake fleet; *url* starts its Consul in the fleet's loop, or names one that runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake_fleet")
    thread.start()
    stack = AsyncExitStack()

    async def build() -> FakeFleet:
        where = await url(stack)
        client = await stack.enter_async_context(ConsulClient(where, token=TokenSource(token)))
        return FakeFleet(where, app, loop, client)

    made: FakeFleet | None = None
    try:
        made = asyncio.run_coroutine_threadsafe(build(), loop).result(30)
        yield made
    finally:
        if made is not None:
            asyncio.run_coroutine_threadsafe(made.close(), loop).result(10)
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

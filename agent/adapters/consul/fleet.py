"""
The fleet in Consul: everything a coordinator or a command reads of an app, and the one way a rollout is written.

Reading: the desired keys first, then members, reports and the catalog, so that what hosts say is never older than
the record it is judged against. A token without the right sees empty lists, not errors: :func:`read_fleet` confirms.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Never, TypeVar

from pydantic import AfterValidator, ValidationError

from agent.adapters.consul.kv import Consistency, ConsulClient
from agent.adapters.consul.services import AGENT_SERVICE, CheckStatus, Instance, Instances
from agent.adapters.consul.visibility import Seen, list_instances, list_keys
from agent.adapters.consul.wire import Op, TxnResult, Verb
from agent.core.model import keys
from agent.core.model.documents import TolerantDocument
from agent.core.model.errors import ConsulForbiddenError, ConsulUnavailableError, PermanentError, TidegateError
from agent.core.model.keys import KeySnapshot, KeyValue, Present, read_snapshot
from agent.core.model.names import AppName, NodeName, parse_node
from agent.core.model.record import Phase
from agent.core.model.report import REPORT_VERSION, NodeReport
from agent.core.rollout.change import Guard, Indexes, Write
from agent.core.rollout.decision import Decision, read_decision

T = TypeVar("T")
REPORTS_KEPT = 4096
_ALIVE = frozenset({CheckStatus.PASSING, CheckStatus.WARNING})


@dataclass(frozen=True, slots=True)
class FleetReading:
    """One app's fleet as Consul shows it."""

    keys: KeySnapshot
    reports: Mapping[NodeName, NodeReport]
    live: Mapping[NodeName, str]
    """Instance ids of the app's agents whose check passes."""
    members: tuple[NodeName, ...] = ()
    notes: tuple[str, ...] = ()
    """What cannot be read: reports, instances, the list of members."""
    coordinators: Mapping[NodeName, str] = field(default_factory=dict)
    """Instance ids of live agents that may coordinate."""
    instances: tuple[Instance, ...] = ()
    """Every agent of the catalog, alive or not, of whichever app."""

    @property
    def record(self) -> Decision | None:
        """
        The rollout record; None where there is none.

        Raises:
            PermanentError: it cannot be read.
        """
        reading = self.keys.rollout
        if isinstance(reading, keys.Invalid):
            raise PermanentError(reading.reason)
        return read_decision(reading.value) if isinstance(reading, Present) else None

    @property
    def indexes(self) -> Indexes:
        """ModifyIndexes for the guards of a write that follows from this reading."""
        return Indexes(record=keys.index_of(self.keys.rollout), active=keys.index_of(self.keys.active))


@dataclass(frozen=True, slots=True)
class Fence:
    """What makes a deposed coordinator's write fail."""

    session: str


async def read_keys(
    client: ConsulClient, app: AppName, consistency: Consistency = Consistency.CONSISTENT
) -> KeySnapshot:
    """
    Read an app's desired state; what is absent in it was confirmed to be absent.

    Raises:
        ConsulForbiddenError: the token may not read it.
        ConsulUnavailableError: no usable answer, or keys that come and go between two reads.
    """
    wanted = (keys.rollout(app), keys.active_image(app), keys.stage_image(app))
    for _ in range(2):
        listing = (await list_keys(client, keys.app_prefix(app), consistency)).whole()
        seen = {entry.key for entry in listing.entries}
        missing = [key for key in wanted if key not in seen]
        if not [key for key in missing if await client.get(key, consistency=consistency) is not None]:
            return read_snapshot(app, listing.entries, listing.index)
    raise ConsulUnavailableError(f"{client.name}: the keys under {app}/ changed between two reads")


async def read_fleet(
    client: ConsulClient,
    app: AppName,
    consistency: Consistency = Consistency.CONSISTENT,
    *,
    on_gap: Callable[[TidegateError], None] | None = None,
) -> FleetReading:
    """
    Read everything a decision about *app*'s fleet depends on.

    Args:
        client: whose token must have the rights.
        app: whose fleet.
        consistency: of each read.
        on_gap: given by who only shows the fleet: told of each part that cannot be read, or not in whole; the part
            then holds what was seen. Without it the first gap ends the reading.

    Raises:
        ConsulForbiddenError: the token may not read the keys; or the reports or the services, or there is no agent.
        ConsulUnavailableError: no usable answer.
        PermanentError: the list of members cannot be read.
    """
    gap = on_gap or _refuse
    snapshot = await read_keys(client, app, consistency)
    members: tuple[NodeName, ...] = ()
    try:
        members = await read_members(client, app, snapshot, consistency)
    except PermanentError as exc:
        gap(exc)
    reports = _noted(await list_keys(client, keys.node_reports(app), consistency), gap)
    instances = _noted(await list_instances(client, AGENT_SERVICE, consistency), gap)
    return assemble(app, snapshot, members, reports.entries, instances)


def _refuse(error: TidegateError) -> Never:
    raise error


def _noted(seen: Seen[T], gap: Callable[[TidegateError], None]) -> T:
    if seen.problem:
        gap(ConsulForbiddenError(seen.problem))
    return seen.found


def assemble(
    app: AppName,
    snapshot: KeySnapshot,
    members: tuple[NodeName, ...],
    entries: Iterable[KeyValue],
    instances: Instances,
) -> FleetReading:
    """
    Put what was read together; what cannot be read is noted and counts as unknown.

    Without a list of members, every host that is known is one: a rollout past `pending` has a barrier.
    """
    notes: list[str] = []
    reports: dict[NodeName, NodeReport] = {}
    for entry in entries:
        read = _report(app, entry)
        if isinstance(read, NodeReport):
            reports[NodeName(read.node)] = read
        else:
            notes.append(read)
    alive = _alive(instances, notes)
    live = {node: meta.get("instance", "") for node, meta in alive if meta.get("app") == app}
    if not members and _has_begun(snapshot):
        members = tuple(sorted({*live, *reports}))
        notes.append("the list of the rollout's members is gone: every host counts as one")
    return FleetReading(
        keys=snapshot,
        reports=reports,
        live=live,
        members=members,
        notes=tuple(notes),
        coordinators={node: meta.get("instance", "") for node, meta in alive if meta.get("coordinator") == "true"},
        instances=instances.instances,
    )


class _ReportHead(TolerantDocument):
    v: int = 1
    """Hosts leave out what is as by default."""


@lru_cache(maxsize=REPORTS_KEPT)
def _report(app: AppName, entry: KeyValue) -> NodeReport | str:
    """
    Return a host's report, or why it cannot be read: that of a newer version may have another form.

    Kept: of a thousand reports in one reading few are new, and reading them all costs a tenth of a second.
    """
    name = entry.key.removeprefix(keys.node_reports(app))
    try:
        node = parse_node(name)
        version = _ReportHead.model_validate_json(entry.value).v
        if version > REPORT_VERSION:
            return f"{node}: its report has version {version}, this program reads up to {REPORT_VERSION}"
        report = NodeReport.model_validate_json(entry.value)
    except ValueError:
        return f"key {entry.key} holds no report of a host"
    if (report.app, report.node) != (app, node):
        return f"key {entry.key} holds a report of {report.node} for {report.app}"
    return report


def _alive(instances: Instances, notes: list[str]) -> tuple[tuple[NodeName, Mapping[str, str]], ...]:
    """Return the hosts whose agent lives, with what it says of itself."""
    found: list[tuple[NodeName, Mapping[str, str]]] = []
    for each in instances.instances:
        try:
            if each.status in _ALIVE:
                found.append((parse_node(each.meta.get("node", "")), each.meta))
        except ValueError:
            notes.append(f"service {each.id} on {each.consul_node} names no host")
    return tuple(found)


def _has_begun(snapshot: KeySnapshot) -> bool:
    """Whether a rollout is under way that has a barrier."""
    record = _record(snapshot)
    return record is not None and record.phase is not Phase.PENDING and not record.phase.is_terminal


def _record(snapshot: KeySnapshot) -> Decision | None:
    """Return the record; None where there is none that can be read."""
    try:
        return read_decision(snapshot.rollout.value) if isinstance(snapshot.rollout, Present) else None
    except PermanentError:
        return None


class _Members(TolerantDocument):
    v: int
    members: tuple[Annotated[NodeName, AfterValidator(parse_node)], ...]


async def read_members(
    client: ConsulClient, app: AppName, snapshot: KeySnapshot, consistency: Consistency = Consistency.CONSISTENT
) -> tuple[NodeName, ...]:
    """Return the hosts of the barrier of the rollout in *snapshot*; none before staging, or without a record."""
    record = _record(snapshot)
    if record is None:
        return ()
    entry = await client.get(keys.members(app, record.generation), consistency=consistency)
    if entry is None:
        return ()
    return members_of(entry)


def members_of(entry: KeyValue) -> tuple[NodeName, ...]:
    """
    Read a list of a barrier's hosts.

    Raises:
        PermanentError: it is none.
    """
    try:
        return _Members.model_validate_json(entry.value).members
    except ValidationError as exc:
        raise PermanentError(f"key {entry.key} holds no list of members") from exc


async def write_change(
    client: ConsulClient, app: AppName, writes: Iterable[Write], fence: Fence | None = None
) -> TxnResult:
    """
    Write one change of a rollout, all of it or nothing.

    Args:
        client: whose token must have the rights.
        app: whose coordinator's lock the fence is about.
        writes: of :func:`agent.core.rollout.change.writes_of`.
        fence: given by a coordinator: only while its session holds the lock.

    Raises:
        ConsulUnavailableError: no usable answer; the outcome is unknown: read again and compare.
    """
    guards = () if fence is None else (Op(Verb.CHECK_SESSION, keys.coordinator(app), session=fence.session),)
    return await client.txn(*guards, *(_op(write) for write in writes))


def _op(write: Write) -> Op:
    match write.guard:
        case Guard.NONE:
            return Op(Verb.SET, write.key, write.value)
        case Guard.CAS:
            return Op(Verb.CAS, write.key, write.value, write.index)
        case Guard.CHECK if write.index == 0:
            return Op(Verb.CHECK_NOT_EXISTS, write.key)
        case Guard.CHECK:
            return Op(Verb.CHECK_INDEX, write.key, index=write.index)

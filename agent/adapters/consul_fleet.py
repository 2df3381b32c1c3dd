"""
The fleet in Consul: everything a coordinator or a command reads of an app, and the one way a rollout is written.

Reading: the desired keys first, then members, reports and the catalog, so that what hosts say is never older than
the record it is judged against. A token without the right sees empty lists, not errors: :func:`read_fleet` confirms.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from agent.adapters.consul import Consistency, ConsulClient
from agent.adapters.consul_services import AGENT_SERVICE, CheckStatus, Instances, health_service
from agent.adapters.consul_wire import Op, TxnResult, Verb
from agent.core import keys
from agent.core.errors import ConsulForbiddenError, PermanentError
from agent.core.keys import KeySnapshot, KeyValue, Present, Reading, read_snapshot
from agent.core.names import AppName, NodeName, parse_node
from agent.core.report import REPORT_VERSION, NodeReport
from agent.core.rollout.change import Guard, Indexes, Write
from agent.core.rollout.decision import Decision, read_decision

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
    """Reports that cannot be read."""
    coordinators: Mapping[NodeName, str] = field(default_factory=dict)
    """Instance ids of live agents that may coordinate."""

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
        return Indexes(record=_index(self.keys.rollout), active=_index(self.keys.active))


@dataclass(frozen=True, slots=True)
class Fence:
    """What makes a deposed coordinator's write fail."""

    session: str


async def read_keys(
    client: ConsulClient, app: AppName, consistency: Consistency = Consistency.CONSISTENT
) -> KeySnapshot:
    """
    Read an app's desired state.

    Raises:
        ConsulForbiddenError: the token may not read it.
        ConsulUnavailableError: no usable answer.
    """
    listing = await client.list(keys.app_prefix(app), consistency=consistency)
    if listing.is_filtered or not listing.entries:
        await client.get(keys.rollout(app), consistency=consistency)  # 403 where the right is missing
    if listing.is_filtered:
        raise ConsulForbiddenError(f"{client.name}: the token may not read all keys under {keys.app_prefix(app)}")
    return read_snapshot(app, listing.entries, listing.index)


async def read_fleet(
    client: ConsulClient, app: AppName, consistency: Consistency = Consistency.CONSISTENT
) -> FleetReading:
    """
    Read everything a decision about *app*'s fleet depends on.

    Raises:
        ConsulForbiddenError: the token may not read the keys, the reports or the services.
        ConsulUnavailableError: no usable answer.
    """
    snapshot = await read_keys(client, app, consistency)
    members = await read_members(client, app, snapshot, consistency)
    listing = await client.list(keys.node_reports(app), consistency=consistency)
    if listing.is_filtered or not listing.entries:
        await client.get(keys.node_reports(app), consistency=consistency)
    found = await health_service(client, AGENT_SERVICE)
    return assemble(app, snapshot, members, listing.entries, found)


def assemble(
    app: AppName,
    snapshot: KeySnapshot,
    members: tuple[NodeName, ...],
    entries: Iterable[KeyValue],
    instances: Instances,
) -> FleetReading:
    """Put what was read together; a report that cannot be read is noted and counts as none."""
    reports: dict[NodeName, NodeReport] = {}
    notes: list[str] = []
    for entry in entries:
        name = entry.key.removeprefix(keys.node_reports(app))
        try:
            report = NodeReport.model_validate_json(entry.value)
            if report.v > REPORT_VERSION:
                notes.append(f"{name}: its report has version {report.v}, this program reads up to {REPORT_VERSION}")
            else:
                reports[parse_node(name)] = report
        except (ValidationError, ValueError):
            notes.append(f"key {entry.key} holds no report of a host")
    alive = [each for each in instances.instances if each.status in _ALIVE and each.meta.get("node")]
    return FleetReading(
        keys=snapshot,
        reports=reports,
        live={
            NodeName(each.meta["node"]): each.meta.get("instance", "") for each in alive if each.meta.get("app") == app
        },
        members=members,
        notes=tuple(notes),
        coordinators={
            NodeName(each.meta["node"]): each.meta.get("instance", "")
            for each in alive
            if each.meta.get("coordinator") == "true"
        },
    )


class _Members(BaseModel):
    model_config = ConfigDict(extra="ignore")
    v: int
    members: tuple[Annotated[NodeName, AfterValidator(parse_node)], ...]


async def read_members(
    client: ConsulClient, app: AppName, snapshot: KeySnapshot, consistency: Consistency = Consistency.CONSISTENT
) -> tuple[NodeName, ...]:
    """Return the hosts of the barrier of the rollout in *snapshot*; none before staging."""
    if not isinstance(snapshot.rollout, Present):
        return ()
    generation = read_decision(snapshot.rollout.value).generation
    entry = await client.get(keys.members(app, generation), consistency=consistency)
    if entry is None:
        return ()
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


def _index(reading: Reading) -> int:
    return reading.modify_index if isinstance(reading, Present) else 0

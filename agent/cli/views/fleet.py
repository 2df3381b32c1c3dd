"""A fleet as people look at it: a row per host, the rollout's head, what is waited for. Pure; renderers lay it out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.adapters.consul.fleet_snapshot import FleetSnapshot
from agent.adapters.consul.services import Instance
from agent.cli.views.text import brief
from agent.core.model.durations import format_duration
from agent.core.model.keys import Present
from agent.core.model.names import NodeName, SlotName
from agent.core.model.record import Phase
from agent.core.model.report import SlotReport
from agent.core.model.states import AdminState, SlotPhase
from agent.core.rollout.advance import advance
from agent.core.rollout.barrier import Wait
from agent.core.rollout.commands import manual_edits
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet, Host
from agent.core.rollout.liveness import Liveness, track_liveness

NO_COORDINATOR = "no coordinator is running; the rollout will not advance"


@dataclass(frozen=True, slots=True)
class Row:
    """One host."""

    node: NodeName
    zone: str
    phase: str
    """Of its busiest slot; or ``gone``, ``leaving``, ``no report``."""
    slots: Mapping[SlotName, SlotReport]
    open_requests: int | None
    """Of the slot that does not get new visitors."""
    idle_s: int | None
    reason: str
    is_well: bool
    """Whether nothing about it needs a look."""
    lines: tuple[str, ...] = ()
    """Last log lines of a container that failed."""


@dataclass(frozen=True, slots=True)
class ProgressBar:
    """How far the hosts are with one thing."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, repr=False)  # as Look
class FleetView:
    """All of it at one time."""

    snapshot: FleetSnapshot
    rows: tuple[Row, ...]
    bars: tuple[ProgressBar, ...] = ()
    waits: tuple[Wait, ...] = ()
    edits: tuple[str, ...] = ()
    """Changes by hand in mid-rollout."""
    hosts: Mapping[NodeName, Host] = field(default_factory=dict)

    @property
    def record(self) -> Decision | None:
        """The rollout record."""
        return self.snapshot.record

    @property
    def in_progress(self) -> bool:
        """Whether a rollout is under way."""
        return self.record is not None and not self.record.phase.is_terminal

    @property
    def coordinator(self) -> str:
        """Who advances rollouts; the text of :data:`NO_COORDINATOR` where nobody may."""
        lock, able = self.snapshot.lock, self.snapshot.reading.coordinators
        if not self.has_coordinator:
            held = f"; {lock.holder} still holds the lock" if lock else ""
            return f"{NO_COORDINATOR} (no live agent has `coordinator = true`{held})"
        if lock is not None:
            dead = "" if lock.holder in able or not able else ", and its agent is not seen alive: another takes over"
            return f"{lock.holder} (epoch {lock.epoch}){dead}"
        if not able:
            return "not known: the token may read neither the lock nor the agents' service"
        return f"nobody holds the lock yet; {len(able)} may: {', '.join(sorted(able)[:5])}"

    @property
    def has_coordinator(self) -> bool:
        """Whether somebody advances rollouts, or soon will; a dead agent's lock does not count, the unknown does."""
        if self.snapshot.instances:
            return bool(self.snapshot.reading.coordinators)
        return self.snapshot.lock is not None or not self.snapshot.is_lock_known


def view_of(snapshot: FleetSnapshot, before: Liveness | None = None) -> tuple[FleetView, Liveness]:
    """
    Put a look into rows.

    Args:
        look: what was read.
        before: what the look before this one remembered; a first look has seen nobody go.
    """
    reading, record = snapshot.reading, snapshot.record
    seen, hosts = track_liveness(before or Liveness(), reading.live, reading.reports, snapshot.at)
    waits: tuple[Wait, ...] = ()
    edits: tuple[str, ...] = ()
    if record is not None and not record.phase.is_terminal:
        waits, edits = _waits(snapshot, hosts, record), manual_edits(record, reading.keys)
        for node in reading.members:
            hosts.setdefault(node, Host(node, gone_s=float("inf")))
    reasons = {wait.node: wait.reason for wait in waits if wait.node}
    agents = {each.meta.get("node", ""): each for each in snapshot.instances}
    rows = tuple(_row(host, agents.get(host.node), reasons.get(host.node, "")) for _, host in sorted(hosts.items()))
    bars = _bars(record, tuple(host for host in hosts.values() if not host.is_leaving)) if record is not None else ()
    return FleetView(snapshot, rows, bars, waits, edits, hosts), seen


def _waits(snapshot: FleetSnapshot, hosts: Mapping[NodeName, Host], record: Decision) -> tuple[Wait, ...]:
    """Say what the coordinator waits for, by its own function."""
    active = snapshot.reading.keys.active
    fleet = Fleet(hosts, snapshot.reading.members, active.value if isinstance(active, Present) else None)  # type: ignore[arg-type]
    return advance(record, fleet, snapshot.at).waits


def _row(host: Host, agent: Instance | None, waits_for: str) -> Row:
    report = host.now or host.report
    slots = dict(report.slots) if report else {}
    old = next((slot for slot in slots.values() if slot.state is not AdminState.READY and slot.release), None)
    phase, trouble = _phase(host)
    failures = report.failures.values() if report else ()
    lines = [*(slot.lines for slot in slots.values()), *(known.lines for known in failures)]
    return Row(
        node=host.node,
        zone=agent.meta.get("zone", "") if agent else "",
        phase=phase,
        slots=slots,
        open_requests=old.open_requests if old else None,
        idle_s=old.last_request_age_s if old else None,
        reason=_reason(host, trouble, waits_for),
        is_well=not trouble and phase not in {SlotPhase.FAILED, SlotPhase.RESTARTING, SlotPhase.UNKNOWN},
        lines=next((each for each in lines if each), ()),
    )


def _reason(host: Host, trouble: str, waits_for: str) -> str:
    """Say what holds a host up: its own words first; what it is waited for where it says nothing."""
    report = host.now or host.report
    if report is None:
        return trouble
    text = [trouble, report.error, *(_without_phase(slot) for slot in report.slots.values())]
    text += [known.reason for known in report.failures.values()]
    told: list[str] = []
    for word in text:
        if word and not any(word in each for each in told):
            told.append(word)
    if not told and report.summary not in waits_for:
        told.append(waits_for)
    return brief("; ".join(word for word in told if word) or "; ".join(report.notes))


def _without_phase(slot: SlotReport) -> str:
    """Return a slot's reason without the phase and the image, which stand beside it."""
    rest = slot.reason.removeprefix(str(slot.phase)).lstrip(": ")
    return rest if " " in rest else ""


def _phase(host: Host) -> tuple[str, str]:
    """Return the phase to show, and what is wrong with the host itself."""
    if host.is_leaving:
        return "leaving", ""
    if host.gone_s is not None:
        known = f" for {format_duration(host.gone_s)}" if 1 <= host.gone_s < float("inf") else ""
        return "gone", f"its agent is not seen alive{known}"
    if host.report is None:
        return "no report", "its agent has not reported yet"
    if host.now is None:
        return "no report", "the last report is of an agent before this one"
    return str(host.now.phase), "" if host.now.is_ready else "not ready"


def _bars(record: Decision, hosts: tuple[Host, ...]) -> tuple[ProgressBar, ...]:
    if record.target is None or record.phase is Phase.PENDING:
        return ()
    total = len(hosts)
    if record.phase in {Phase.ABORTING, Phase.ABORTED, Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED}:
        gone = sum(host.now is not None and host.slot_of(record.target) is None for host in hosts)
        back = sum(host.now is not None and not _serves(host, record.target.release) for host in hosts)
        return ProgressBar("back", back, total), ProgressBar("taken out", gone, total)
    staged = sum((held := host.slot_of(record.target)) is not None and _is_fit(held[1]) for host in hosts)
    switched = sum(_serves(host, record.target.release) for host in hosts)
    retired = sum(_serves(host, record.target.release) and host.slot_of(record.source) is None for host in hosts)
    bars = [ProgressBar("staged", staged, total), ProgressBar("switched", switched, total)]
    return tuple(bars if record.source is None else [*bars, ProgressBar("retired", retired, total)])


def _serves(host: Host, release: str) -> bool:
    return host.serving is not None and host.serving.release == release and host.serving.is_up


def _is_fit(slot: SlotReport) -> bool:
    return slot.is_staged or slot.is_up

"""``tidegate plan IMAGE``: what a deploy would do on which host, by the functions that would do it."""

from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from agent.cli.views.columns import columns
from agent.cli.views.fleet import FleetView
from agent.cli.views.text import clean, slot_text
from agent.core.model.durations import format_duration
from agent.core.model.errors import PermanentError
from agent.core.model.keys import Present
from agent.core.model.names import Digest, ImageReference, NodeName, parse_digest
from agent.core.model.record import node_hash
from agent.core.model.states import SlotPhase
from agent.core.rollout import commands
from agent.core.rollout.advance import advance
from agent.core.rollout.commands import CommandAuthor
from agent.core.rollout.decision import Decision, Request
from agent.core.rollout.fleet import Fleet, Host, Resolution
from agent.core.rollout.phases_forward import threshold_of
from agent.core.rollout.source import UnclearSourceError, source_of
from agent.core.rollout.strategy import Strategy, hosts_of

UNRESOLVED = parse_digest(f"sha256:{'0' * 64}")


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What would happen on one host."""

    node: NodeName
    step: str
    """Share of the hosts with which it switches."""
    what: str
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What a deploy would come to."""

    image: ImageReference
    generation: int | None
    refused: str
    """Why ``deploy`` would be refused; empty where it would not."""
    source: str
    spec: str
    strategy: Strategy
    hosts: tuple[HostPlan, ...]
    waits: tuple[str, ...]
    """What it would wait for before staging, that concerns no single host."""
    ends: str = ""
    """Why it would end at once."""

    @property
    def goes(self) -> bool:
        """Whether a deploy would begin."""
        return not self.refused and not self.ends


def plan(view: FleetView, request: Request, strategy: Strategy, spec: str) -> RolloutPlan:
    """Ask the command and the coordinator's own function what they would do with what is there."""
    reading = view.snapshot.reading
    refused, record = "", None
    try:
        change = commands.deploy(
            reading.keys, reading.reports.values(), request, strategy, CommandAuthor("plan", "", view.snapshot.at)
        )
        record = change.record.replace(since=view.snapshot.at, deadline=view.snapshot.at + strategy.free_slot_wait_s)
    except PermanentError as exc:
        refused = str(exc)
    if record is None:
        return RolloutPlan(request.image, None, refused, "", spec, strategy, (), ())
    return _judged(view, record, spec)


def _judged(view: FleetView, record: Decision, spec: str) -> RolloutPlan:
    assert record.request is not None
    active = view.snapshot.reading.keys.active
    digest = record.request.image.partition("@")[2]
    fleet = Fleet(
        view.hosts,
        active=ImageReference(active.value) if isinstance(active, Present) else None,
        resolution=Resolution(Digest(digest) if digest else UNRESOLVED),
    )
    begun = advance(record, fleet, view.snapshot.at)
    after = begun.change.record if begun.change else record
    waits = {wait.node: wait.reason for wait in begun.waits if wait.node}
    nodes = tuple(host.node for host in fleet.present)
    steps = _steps(record, nodes)
    return RolloutPlan(
        image=record.request.image,
        generation=record.generation,
        refused="",
        source=_source(record, fleet),
        spec=spec,
        strategy=record.strategy,
        hosts=tuple(
            HostPlan(host.node, steps[host.node], _what(host, after, host.node in waits), waits.get(host.node, ""))
            for host in fleet.present
        ),
        waits=tuple(str(wait) for wait in begun.waits if not wait.node),
        ends=after.why if after.phase.is_terminal else "",
    )


def _steps(record: Decision, nodes: tuple[NodeName, ...]) -> dict[NodeName, str]:
    found: dict[NodeName, str] = {}
    for share in record.strategy.all_steps:
        count = len(nodes) if share == "100%" else max(1, hosts_of(share, len(nodes)))
        threshold = threshold_of(record.generation, nodes, count) if nodes else ""
        for node in nodes:
            if node_hash(record.generation, node) <= threshold:
                found.setdefault(node, share)
    return found


def _source(record: Decision, fleet: Fleet) -> str:
    try:
        source = source_of(record, fleet)
    except UnclearSourceError:
        return "what is not clear"
    return source.image if source else "nothing: the first deploy"


def _what(host: Host, record: Decision, waits: bool) -> str:
    report = host.now
    if report is None or record.request is None:
        return "not known: no report of the live agent"
    serving = next((f"{name} ({slot_text(slot)})" for name, slot in sorted(report.slots.items()) if slot.is_up), "")
    beside = f", beside {serving}" if serving else ""
    if (held := host.slot_of(record.target)) is not None:
        return f"uses the container that is still warm in {held[0]}{beside}"
    free = next((name for name, slot in sorted(report.slots.items()) if slot.phase is SlotPhase.EMPTY), None)
    begins = f"pulls {record.request.image}, starts and checks it in {free or 'the other slot'}{beside}"
    return f"waits, then {begins}" if waits else begins


def render(found: RolloutPlan) -> RenderableType:
    """Lay it out."""
    if found.refused:
        return Text(f"would be refused: {clean(found.refused)}", style="red")
    strategy = found.strategy
    head = Text(f"rollout {found.generation}: {found.image} from {found.source}")
    if found.ends:
        return Group(head, Text(f"would end at once: {clean(found.ends)}", style="red"))
    cells = [(host.node, host.step, host.what, host.waits_for) for host in found.hosts]
    rows = [[Text(clean(cell)) for cell in row] for row in cells]
    table = columns(("host", "switches with", "what", "waits for"), rows)
    steps = " > ".join(strategy.all_steps)
    gates = " (the first waits for `promote`)" if strategy.has_canary else ""
    manual = ", waits for `promote` before the commit" if strategy.waits_for_promote else ""
    times = (
        f"staging at most {format_duration(strategy.progress_deadline)}, bakes {format_duration(strategy.bake_time)}, "
        f"the old release goes after {format_duration(strategy.drain_idle)} of silence, "
        f"at most {format_duration(strategy.drain_timeout)} after the switch"
    )
    lines = [Text(f"steps: {steps}{gates}{manual}"), Text(times), Text(f"spec: {found.spec}")]
    waits = [Text(f"waiting: {clean(wait)}", style="yellow") for wait in found.waits]
    if found.source.partition("@")[0] == found.image:
        waits.append(Text("the tag is that of what serves: unless it was pushed anew, it ends at once", style="yellow"))
    return Group(head, *lines, *waits, table, Text("nothing was changed", style="dim"))


def document(found: RolloutPlan) -> dict[str, Any]:
    """Return it as JSON."""
    return {
        "image": found.image,
        "generation": found.generation,
        "refused": found.refused or None,
        "ends": found.ends or None,
        "source": found.source,
        "spec": found.spec,
        "strategy": found.strategy.model_dump(mode="json"),
        "waits": list(found.waits),
        "hosts": [
            {"node": host.node, "step": host.step, "what": host.what, "waits_for": host.waits_for or None}
            for host in found.hosts
        ],
    }

"""A fleet on a terminal or in a pipe: the rollout's head, a bar per phase, a row per host, and what needs a look."""

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.text import Text

from agent.cli.views.columns import columns
from agent.cli.views.fleet import FleetView, ProgressBar, Row
from agent.cli.views.text import ago, asked_for, clean, left, short, slot_text
from agent.core.model.durations import format_duration
from agent.core.model.keys import Invalid, Present
from agent.core.model.names import SlotName
from agent.core.model.record import Phase
from agent.core.rollout.decision import GOING_BACK, Decision

PIPE_WIDTH_CHARS = 320
BAR_CHARS = 20
WAITS_MAX = 5
_ROUTE = (Phase.PENDING, Phase.STAGING, Phase.READY, Phase.SWITCHING, Phase.BAKING, Phase.RETIRING, Phase.SUCCESSFUL)
_CANARY_ROUTE = (*_ROUTE[:3], Phase.CANARY, Phase.AWAITING_PROMOTION, *_ROUTE[3:])
_STYLES = {"serving": "green", "staged": "cyan", "failed": "bold red", "gone": "red", "no report": "red"}


def console() -> Console:
    """Return a console that cuts nothing where no terminal sets a width."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(width=PIPE_WIDTH_CHARS, highlight=False)


def render(view: FleetView, *, rows_max: int | None = None) -> RenderableType:
    """Lay out a fleet; with *rows_max* only so many hosts, those that need a look first."""
    parts: list[RenderableType] = [*_head(view)]
    rows = view.rows
    if rows_max is not None and len(rows) > rows_max:
        waiting = {wait.node for wait in view.waits}
        rows = tuple(sorted(rows, key=lambda row: (row.is_well, row.node not in waiting, row.node))[:rows_max])
    if rows:
        parts.append(_table(rows))
    if len(rows) < len(view.rows):
        parts.append(Text(f"... and {len(view.rows) - len(rows)} more hosts", style="dim"))
    parts.extend(_notes(view))
    return Group(*parts)


def _head(view: FleetView) -> Iterator[RenderableType]:
    record, now = view.record, view.snapshot.at
    head = Text(str(view.snapshot.app), style="bold")
    if record is None:
        yield head.append(f" · no rollout is recorded · {by_hand(view)}", style="not bold")
        yield Text(f"coordinator: {view.coordinator}", style="" if view.has_coordinator else "bold red")
        return
    yield _title(head, record)
    if record.author or record.reason:
        began = f" · {ago(now - record.created_at)}" if record.created_at else ""
        reason = f": {clean(record.reason)}" if record.reason else ""
        yield Text(f"by {clean(record.author)}{reason}{began}")
    if record.phase.is_terminal:
        yield Text(f"{record.phase}: {clean(record.why)} · {by_hand(view)}" if record.why else by_hand(view))
        return
    yield _route(record)
    yield from (_bar(bar) for bar in view.bars)
    paused = f" · paused ({clean(record.flags.note)})" if record.flags.paused else ""
    entered = f" ({clean(record.why)})" if record.why else ""
    yield Text(f"{record.phase}{entered}{paused} · {left(record.deadline, now) or 'no deadline yet'}")
    yield Text(f"coordinator: {view.coordinator}", style="" if view.has_coordinator else "bold red")
    for wait in view.waits[:WAITS_MAX]:
        yield Text(f"waiting: {clean(str(wait))}", style="yellow")
    if len(view.waits) > WAITS_MAX:
        yield Text(f"... and {len(view.waits) - WAITS_MAX} more", style="yellow")


def _title(head: Text, record: Decision) -> Text:
    style = {Phase.SUCCESSFUL: "green", Phase.ROLLBACK_FAILED: "bold red"}.get(record.phase, "yellow")
    head.append(f" · rollout {record.generation} · ", style="not bold").append(str(record.phase), style=style)
    head.append(f" · {asked_for(record)}", style="not bold")
    return head.append(f" from {short(record.source.image)}", style="not bold") if record.source else head


def _route(record: Decision) -> Text:
    """Show where on its way the rollout is."""
    if record.phase in GOING_BACK:
        end = Phase.ABORTED if record.phase is Phase.ABORTING else Phase.ROLLED_BACK
        return Text.assemble((str(record.phase), "bold red"), (f" > {end}", "dim"))
    route = _CANARY_ROUTE if record.strategy.has_canary else _ROUTE
    text, passed = Text(), True
    for number, phase in enumerate(route):
        text.append(" > " if number else "", style="dim")
        passed = passed and phase is not record.phase
        text.append(phase, style="bold yellow" if phase is record.phase else "green" if passed else "dim")
    return text


def _bar(bar: ProgressBar) -> Text:
    filled = BAR_CHARS * bar.done // bar.total if bar.total else 0
    mark = Text(f"{bar.name:<9} ").append("█" * filled, style="green").append("░" * (BAR_CHARS - filled), style="dim")
    return mark.append(f" {bar.done}/{bar.total}")


def _table(rows: tuple[Row, ...]) -> RenderableType:
    has_zones = any(row.zone for row in rows)
    names = ["host", *(["zone"] if has_zones else []), "phase", "blue", "green", "open", "idle", "reason"]
    return columns(names, [_cells(row, has_zones) for row in rows])


def _cells(row: Row, has_zones: bool) -> list[Text]:
    return [
        Text(row.node),
        *([Text(row.zone)] if has_zones else []),
        Text(row.phase, style=_STYLES.get(row.phase, "yellow")),
        *(Text(slot_text(row.slots.get(slot))) for slot in SlotName),
        Text("" if row.open_requests is None else str(row.open_requests)),
        Text("" if row.idle_s is None else format_duration(row.idle_s)),
        Text(clean(row.reason)),
    ]


def _notes(view: FleetView) -> Iterator[RenderableType]:
    for edit in view.edits:
        yield Text(f"! {clean(edit)}", style="yellow")
    for note in view.snapshot.notes:
        yield Text(f"! {clean(note)}", style="yellow")
    failed = next((row for row in view.rows if row.lines and not row.is_well), None)
    if failed is not None:
        yield Text(f"last log lines on {failed.node}:", style="dim")
        yield from (Text(f"  {clean(line)}", style="dim") for line in failed.lines)


def by_hand(view: FleetView) -> str:
    """Say what the two image keys ask for, outside of a rollout."""
    match view.snapshot.reading.keys.active, view.snapshot.reading.keys.stage:
        case Invalid(reason), _:
            return clean(reason)
        case Present(active), Present(stage) if active != stage:
            return f"active {active}, stage/image {stage} by hand"
        case Present(active), _:
            return f"active {active}"
        case _:
            return "nothing is active"

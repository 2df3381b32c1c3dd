"""``tidegate status`` and ``tidegate plan``: one host as a table for people, or as JSON."""

import json
import time
from typing import Any

from pydantic import ValidationError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.adapters.host.agent_api import ask
from agent.core.model.durations import format_duration
from agent.core.model.errors import TransientError
from agent.core.model.names import SlotName
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.states import SlotPhase

PIPE_WIDTH_CHARS = 320
_STYLES = {
    SlotPhase.SERVING: "green",
    SlotPhase.STAGED: "cyan",
    SlotPhase.FAILED: "bold red",
    SlotPhase.RESTARTING: "red",
    SlotPhase.UNKNOWN: "red",
    SlotPhase.EMPTY: "dim",
}


def show(port: int, *, as_json: bool, watch: bool) -> None:
    """Print the host's status once, or each second until Ctrl-C."""
    console = _console()
    if not watch:
        answer = ask(port, "GET", "/v1/status")
        console.print_json(json.dumps(answer)) if as_json else console.print(_render(_report(port, answer)))
        return
    try:
        if as_json:
            _stream(port)
        else:
            _live(port, console)
    except KeyboardInterrupt:
        return


def show_plan(port: int, *, as_json: bool) -> None:
    """Print what the agent would do now."""
    console, answer = _console(), ask(port, "GET", "/v1/plan")
    if as_json:
        console.print_json(json.dumps(answer))
        return
    for action in answer["actions"] or ["nothing to do now"]:
        console.print(Text(f"- {action}"), soft_wrap=True)
    for slot, shown in sorted(answer["slots"].items()):
        reason = f": {shown['reason']}" if shown["reason"] else ""
        console.print(Text(f"  {slot}: {shown['phase']}{reason}", style="dim"), soft_wrap=True)
    for note in answer["notes"]:
        console.print(Text(f"! {note}", style="yellow"), soft_wrap=True)


def _console() -> Console:
    """Return a console that cuts nothing where no terminal sets a width."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH_CHARS)


def _report(port: int, answer: Any) -> NodeReport:
    try:
        return NodeReport.model_validate(answer)
    except ValidationError as exc:
        raise TransientError(
            f"this command cannot read the report of the agent at port {port}: their versions differ"
        ) from exc


def _stream(port: int) -> None:
    while True:
        print(json.dumps(ask(port, "GET", "/v1/status")), flush=True)
        time.sleep(1)


def _live(port: int, console: Console) -> None:
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            live.update(_current(port))
            time.sleep(1)


def _current(port: int) -> RenderableType:
    try:
        return _render(_report(port, ask(port, "GET", "/v1/status")))
    except TransientError as exc:
        return Text(str(exc), style="red")


def _render(report: NodeReport) -> RenderableType:
    ready = Text("ready", style="green") if report.is_ready else Text("not ready", style="red")
    head = Text.assemble(f"{report.node} · app {report.app} · ", ready, f" · wants {report.wants}")
    if report.holds:
        head.append(f" · holds {report.holds}")
    table = Table(
        "slot", "phase", "release", "image", "state", "open", "last request", "reason", box=None, pad_edge=False
    )
    for slot in SlotName:
        table.add_row(*_row(slot, report.slots[slot]))
    parts: list[RenderableType] = [head, table]
    parts.extend(Text(f"! {note}", style="yellow") for note in report.notes)
    if report.error:
        parts.append(Text(f"! {report.error}", style="red"))
    for slot, shown in report.slots.items():
        if shown.lines:
            parts.append(Text(f"last log lines of slot {slot}:", style="dim"))
            parts.extend(Text(f"  {line}", style="dim") for line in shown.lines)
    return Group(*parts)


def _row(slot: SlotName, shown: SlotReport) -> list[RenderableType]:
    age = "" if shown.last_request_age_s is None else f"{format_duration(shown.last_request_age_s)} ago"
    return [
        Text(slot),
        Text(shown.phase, style=_STYLES.get(shown.phase, "yellow")),
        Text(shown.release),
        Text(shown.image),
        Text(f"{shown.state or '?'}{'' if shown.is_up or shown.state != 'ready' else ' (down)'}"),
        Text("" if shown.open_requests is None else str(shown.open_requests)),
        Text(age),
        Text(shown.reason),
    ]

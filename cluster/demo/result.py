"""What the demo proved: the verdict for a person, and the one line of JSON for a program. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.traffic.record import Kind, Outcome
from cluster.traffic.verdict import Verdict

KIND_WORDS = {
    Kind.NEW: "new connections",
    Kind.KEEPALIVE: "keep-alive connections",
    Kind.SLOW: "slow answers",
    Kind.STREAM: "streams",
    Kind.WEBSOCKET: "WebSockets",
    Kind.VISITOR: "visitors with a cookie",
}
PHASE_WORDS = {
    "boot": "from the agent's start until a serves",
    "stage": "pull, start and check b beside a",
    "switch": "from the key until a new visitor gets b",
    "drain": "until nobody used a any more",
    "retire": "stop and remove a",
    "refuse": "until the bad image was refused and gone",
}
_IN_JSON = (
    "requests",
    "failed",
    "streams_cut",
    "visitors",
    "moved_unasked",
    "moved_back_and_forth",
    "moved_at_deadline",
    "moved_by_rollback",
)


@dataclass(frozen=True, slots=True)
class Result:
    """
    The end of a demo.

    `phases` is in seconds; a step that was not reached has none. `problem` says why the story stopped early (empty
    when it did not), `refusal` why the bad image was refused (empty when it was not).
    """

    outcome: Outcome
    verdict: Verdict
    phases: Mapping[str, float]
    refusal: str = ""
    problem: str = ""

    @property
    def shortcomings(self) -> tuple[str, ...]:
        """What is not as promised, one sentence each; none means success."""
        verdict = self.verdict
        said = [self.problem] if self.problem else []
        if verdict.failed:
            faults = ", ".join(f"{count} {fault}" for fault, count in verdict.failed.items())
            said.append(f"{sum(verdict.failed.values())} requests failed: {faults}")
        for count, words in (
            (verdict.streams_cut, "streams or WebSockets were cut"),
            (verdict.moved_unasked, "visitors were moved in mid-visit"),
            (verdict.moved_back_and_forth, "visitors were moved back and forth"),
            (verdict.early, "answers came from a release that was not active yet"),
            (verdict.stale, "newcomers got a release that was no longer active"),
        ):
            if count:
                said.append(f"{count} {words}")
        if not self.refusal:
            said.append("the bad image was not refused")
        return tuple(said)

    def to_json(self) -> str:
        """Return the line that ends the output; its keys are a contract."""
        verdict = self.verdict.to_dict()
        phases = {name: round(seconds, 3) for name, seconds in self.phases.items()}
        last = {"phases": phases, "bad_image_refused": bool(self.refusal)}
        return json.dumps({key: verdict[key] for key in _IN_JSON} | last)


def phases_of(seen: Mapping[str, float], outcome: Outcome, activated_at: float | None) -> dict[str, float]:
    """Put what the traffic tells of the switch among the phases that were *seen*, all in their order."""
    phases = dict(seen)
    if activated_at is not None:
        answers = [sample.head_at for sample in outcome.samples if sample.version == "b"]
        if answers:
            phases["switch"] = max(0.0, min(answers) - activated_at)
    return {name: phases[name] for name in PHASE_WORDS if name in phases}


def print_result(console: Console, result: Result) -> None:
    """Print the verdict as a person reads it."""
    verdict, outcome = result.verdict, result.outcome
    console.print()
    traffic = Table("traffic", box=None, pad_edge=False)
    for column in ("requests", "failed"):
        traffic.add_column(column, justify="right")
    for kind, words in KIND_WORDS.items():
        failed = sum(outcome.failed.get(kind, {}).values())
        traffic.add_row(words, f"{outcome.requests.get(kind, 0):,}", _count(failed))
    traffic.add_row("[bold]together", f"[bold]{verdict.requests:,}", f"[bold]{_count(sum(verdict.failed.values()))}")
    console.print(traffic)
    console.print()
    console.print(
        f"{verdict.visitors} visitors: {_count(verdict.moved_unasked)} moved in mid-visit, "
        f"{_count(verdict.moved_back_and_forth)} back and forth, {verdict.moved_at_deadline} at the drain deadline, "
        f"{verdict.moved_by_rollback} by a rollback"
    )
    console.print()
    phases = Table("phase", box=None, pad_edge=False)
    phases.add_column("seconds", justify="right")
    phases.add_column("what")
    for name, seconds in result.phases.items():
        phases.add_row(name, f"{seconds:.2f}", f"[dim]{PHASE_WORDS[name]}")
    console.print(phases)
    console.print()
    refused = f"[green]yes[/]: {escape(result.refusal)}" if result.refusal else "[bold red]no"
    console.print(f"bad image refused: {refused}")
    if result.shortcomings:
        for sentence in result.shortcomings:
            console.print(f"[bold red]not as promised:[/] {escape(sentence)}")
    else:
        console.print("[bold green]Nothing was lost, and nobody was moved in mid-visit.")


def _count(number: int) -> str:
    return f"[bold red]{number:,}[/]" if number else "0"

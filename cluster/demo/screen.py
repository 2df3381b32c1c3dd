"""What the demo shows while it runs: what happened in words, and below it, on a terminal, the state of things live."""

import time
from collections import Counter, deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase
from cluster.demo.result import KIND_WORDS
from cluster.traffic.generator import Snapshot
from cluster.traffic.record import Kind

PLAIN_EVERY_S = 5.0
WINDOW_S = 1.5
"""'Now' for a person: kinds with few requests answer a few times in it."""
BAR_CELLS = 24
_COLOURS = {"a": "cyan", "b": "magenta", "bad": "red"}
_PHASE_COLOURS = {
    SlotPhase.SERVING: "green",
    SlotPhase.STAGED: "green",
    SlotPhase.FAILED: "bold red",
    SlotPhase.EMPTY: "dim",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One look at the host and at the traffic; either may not be there yet."""

    report: NodeReport | None
    traffic: Snapshot | None


class Screen:
    """
    Prints to *console*; *hidden* is the registry's address, which would fill lines with what tells nothing.

    On a terminal `show` redraws a panel in place; elsewhere it prints a line when a slot changes and every 5 s.
    """

    def __init__(self, console: Console) -> None:
        self.hidden = ""
        self._console = console
        self._live = Live(console=console, refresh_per_second=5, transient=True) if console.is_terminal else None
        self._began_at = time.monotonic()
        self._recent: deque[Snapshot] = deque()
        self._versions: dict[Kind, Counter[str]] = {}
        self._slots = ""
        self._printed_at: float | None = None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take the panel away; what was said stays. Idempotent."""
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()
            self._live = None

    def say(self, words: str, style: str = "") -> None:
        """Say what happened; it stays."""
        self._line(Text.assemble((self._clock(), "dim"), "  ", (self.short(words), style)))

    def tell(self, words: str) -> None:
        """Add a detail to what was said."""
        self._line(Text(f"{'':11}{self.short(words)}", style="dim"))

    def show(self, picture: Picture) -> None:
        """Show the present state."""
        if picture.traffic is not None:
            self._learn(picture.traffic)
        if self._live is not None:
            self._live.update(self._panel(picture))
        else:
            self._print_plainly(picture)

    def short(self, words: str) -> str:
        """Return *words* without the registry's address."""
        return words.replace(f"{self.hidden}/", "") if self.hidden else words

    def _line(self, text: Text) -> None:
        self._console.print(text)

    def _clock(self) -> str:
        return f"{time.monotonic() - self._began_at:7.1f} s"

    def _learn(self, snapshot: Snapshot) -> None:
        if self._recent and self._recent[-1].elapsed_s == snapshot.elapsed_s:
            return
        self._recent.append(snapshot)
        while snapshot.elapsed_s - self._recent[0].elapsed_s > WINDOW_S:
            self._recent.popleft()
        for kind in Kind:
            versions = Counter[str]()
            for each in self._recent:
                versions.update(each.kinds[kind].versions)
            # A kind that nobody answered just now shows what it got last.
            if versions:
                self._versions[kind] = versions

    def _panel(self, picture: Picture) -> RenderableType:
        parts: list[RenderableType] = [Text("")]
        if picture.traffic is not None:
            parts += [self._traffic_table(picture.traffic), Text("")]
        if picture.report is not None:
            parts.append(self._slots_table(picture.report))
        return Group(*parts)

    def _traffic_table(self, snapshot: Snapshot) -> Table:
        # Fixed widths: a panel that twitches is hard to read.
        table = Table(box=None, pad_edge=False)
        table.add_column("traffic", min_width=22)
        table.add_column("requests", justify="right", min_width=8)
        table.add_column("failed", justify="right")
        table.add_column("gets now")
        for kind, words in KIND_WORDS.items():
            count = snapshot.kinds[kind]
            failed = sum(count.failed.values())
            shown_failed = Text(f"{failed:,}", style="bold red" if failed else "")
            table.add_row(words, f"{count.requests:,}", shown_failed, _shares(self._versions.get(kind, Counter())))
        return table

    def _slots_table(self, report: NodeReport) -> Table:
        table = Table("slot", box=None, pad_edge=False)
        table.add_column("phase", min_width=10)
        table.add_column("image", min_width=18)
        table.add_column("open", justify="right")
        table.add_column("reason", no_wrap=True, overflow="ellipsis")
        for slot, shown in sorted(report.slots.items()):
            table.add_row(
                slot,
                Text(shown.phase, style=_PHASE_COLOURS.get(shown.phase, "yellow")),
                self.short(shown.image),
                "" if shown.open_requests is None else str(shown.open_requests),
                Text(self.short(shown.reason)),
            )
        return table

    def _print_plainly(self, picture: Picture) -> None:
        if picture.report is not None:
            slots = ", ".join(self._slot_words(picture.report, slot) for slot in sorted(picture.report.slots))
            if slots != self._slots:
                self._slots = slots
                self.tell(f"slots: {slots}")
        now = time.monotonic()
        if picture.traffic is None:
            return
        if self._printed_at is None:
            # Nothing is worth a line yet.
            self._printed_at = now - PLAIN_EVERY_S / 2
        elif now - self._printed_at >= PLAIN_EVERY_S:
            self._printed_at = now
            kinds = {"newcomers": Kind.NEW, "visitors": Kind.VISITOR}
            got = "; ".join(f"{word} get {_words(self._versions.get(kind))}" for word, kind in kinds.items())
            self.tell(f"traffic: {picture.traffic.requests:,} requests, {picture.traffic.failed} failed; {got}")

    def _slot_words(self, report: NodeReport, slot: str) -> str:
        shown = next(shown for name, shown in report.slots.items() if name == slot)
        return f"{slot} {shown.phase}{f' {self.short(shown.image)}' if shown.image else ''}"


def _shares(versions: Counter[str]) -> Text:
    """Draw who answers as a bar, with the percentages beside it."""
    total = versions.total()
    text = Text()
    cells_before, counted = 0, 0
    for version, count in sorted(versions.items()):
        counted += count
        cells = round(BAR_CELLS * counted / total)
        text.append("━" * (cells - cells_before), style=_COLOURS.get(version, "yellow"))
        cells_before = cells
    return text.append(f" {_words(versions)}" if total else "")


def _words(versions: Counter[str] | None) -> str:
    if not versions:
        return "nothing yet"
    total = versions.total()
    if len(versions) == 1:
        return next(iter(versions))
    return " ".join(f"{version} {100 * count / total:.0f} %" for version, count in sorted(versions.items()))

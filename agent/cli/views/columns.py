"""Columns of a table, for as many rows as there may be: a thousand hosts are laid out without rich's own care."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

ROWS_WITH_CARE = 100
"""Up to here narrow terminals get cells that wrap; beyond, rich would take half a second."""


def columns(names: Sequence[str], rows: Sequence[Sequence[Text]]) -> RenderableType:
    """Lay out *rows* under *names*."""
    if len(rows) > ROWS_WITH_CARE:
        return _plain([[Text(name, style="bold") for name in names], *rows])
    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _plain(rows: Sequence[Sequence[Text]]) -> Text:
    widths = [max(len(cell.plain) for cell in column) for column in zip(*rows, strict=True)]
    laid = Text(no_wrap=True, overflow="ignore")
    for number, row in enumerate(rows):
        laid.append("\n" if number else "")
        for cell, width in zip(row, widths, strict=True):
            laid.append(cell.plain, style=cell.style).append(" " * (width - len(cell.plain) + 2))
    return laid

"""
Draw docs/images/demo.svg from the output of the demo: ``python docs/demo_picture.py demo.log``.

The log is what ``make demo | tee demo.log`` wrote. The picture holds lines of that log and nothing else; this script
leaves lines out and invents none. It fails where the log has no verdict, or the picture is too big.
"""  # noqa: INP001 - a script beside the pages it writes

import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURE = Path(__file__).parent / "images" / "demo.svg"
WIDTH = 118
LIMIT_BYTES = 200_000
TITLE = "make demo"
SECOND_DEPLOY = "$ tidegate deploy"
VERDICT = "Nothing was lost"
CUT = "           …"

_DETAIL = re.compile(r" {11}\S")
_SKIPPED = re.compile(r"web-[23]: | by \S+@|^phase |^(boot|stage|switch|drain|retire|refuse) ")
"""The other hosts say what the first one says; who ran the demo, and its times, are of one machine."""
_FONT_FACE = re.compile(r"\s*@font-face \{.*?\n    \}", re.DOTALL)
"""rich names a font on another site; the reader's own monospaced one will do."""
_COLOURS = (
    (re.compile(r"^ +[0-9.]+ s  .*"), "bold"),
    (re.compile(r"\b0 failed\b|\bbad image refused: yes\b|Nothing was lost.*"), "bold green"),
    (re.compile(r"\b(serving|staged|successful)\b"), "green"),
    (re.compile(r"\b(starting|checking|draining|aborted|failed testapp\S+)"), "yellow"),
    (re.compile(r"traffic: .*"), "cyan"),
    (re.compile(r"^(traffic|phase) .*"), "bold"),
)


def lines_of(log: str) -> Iterator[str]:
    """
    Yield the lines of *log* that the picture shows: the deploy of b, the end of the refusal, the verdict.

    Raises:
        ValueError: the log is not of a whole demo.
    """
    lines = log.splitlines()
    if not any(line.startswith(VERDICT) for line in lines):
        raise ValueError(f"the log has no line {VERDICT!r}: the demo did not end well, or the log is cut off")
    steps = [number for number, line in enumerate(lines) if SECOND_DEPLOY in line]
    if len(steps) != 3:
        raise ValueError(f"the log has {len(steps)} deploys; a whole demo has 3")
    _, second, third = steps
    end = next(number for number, line in enumerate(lines) if line.startswith(VERDICT))
    yield from _shown(lines[second:third])
    yield lines[third]
    yield CUT
    rest = lines[third + 1 : end + 1]
    last_detail = max(number for number, line in enumerate(rest) if _DETAIL.match(line))
    yield from _shown(rest[last_detail:])


def _shown(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines that are not skipped, and no two empty ones in a row."""
    before = ""
    for line in lines:
        if not _SKIPPED.search(line) and (line.strip() or before):
            before = line.strip()
            yield line


def draw(lines: Sequence[str]) -> str:
    """Return the SVG of a terminal that shows *lines*."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        text = Text(line)
        for pattern, style in _COLOURS:
            text.highlight_regex(pattern, style)
        console.print(text, no_wrap=True, overflow="ellipsis")
    return _FONT_FACE.sub("", console.export_svg(title=TITLE, theme=MONOKAI, unique_id="demo"))


def main(log: Path) -> None:
    """
    Write the picture.

    Raises:
        ValueError: the log is not of a whole demo, or the picture is too big.
    """
    picture = draw(list(lines_of(log.read_text(encoding="utf-8"))))
    if len(picture.encode()) > LIMIT_BYTES:
        raise ValueError(f"the picture has {len(picture.encode()):,} bytes; at most {LIMIT_BYTES:,} are wanted")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture, encoding="utf-8")
    sys.stdout.write(f"wrote {PICTURE}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

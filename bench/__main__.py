"""``make bench``: all figures of one run as a table and in build/bench.json; exit status 1 if a target is missed."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import deploy, latency, proxy, rest, scale, switch_skew, watching
from bench.figures import Figure, table, write

OUT = Path("build/bench.json")
_SUITES: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
    "latency": latency.measure,
    "deploy": deploy.measure,
    "rest": rest.measure,
    "watching": watching.measure,
    "scale": scale.measure,
    "skew": switch_skew.measure,
    "proxy": lambda: proxy.measure(proxy.Rounds()),
}


async def _measure(names: list[str]) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        figures += await _SUITES[name]()
    return figures


def main() -> int:
    """Measure what is named on the command line, by default everything."""
    names = sys.argv[1:] or list(_SUITES)
    if unknown := [name for name in names if name not in _SUITES]:
        print(f"there is no bench {', '.join(unknown)}; there are {', '.join(_SUITES)}", file=sys.stderr)
        return 2
    figures = asyncio.run(_measure(names))
    write(figures, OUT)
    print(table(figures))
    return 0 if all(figure.ok for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())

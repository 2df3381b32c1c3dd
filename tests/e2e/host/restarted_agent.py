"""
The real agent, which dies between any two actions the first time it gets there, and is there again at once.

Run as ``python -m tests.e2e.host.restarted_agent CONFIG TRACE``. A death is an exception nobody catches: every task
ends where it is, nothing is remembered but what the host, Consul and the journal hold. TRACE is its list of deaths,
a line of JSON each; who empties that file lets it die at the same places anew.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from agent import daemon, log
from agent.config import Settings, load
from agent.core.host.actions import Action


class _Death(BaseException):
    """Not an Exception: the agent survives those."""


@dataclass(frozen=True, slots=True)
class Point:
    """Between two actions of one plan; empty before the first and after the last."""

    after: str
    """The action that was done, in its own words."""
    before: str
    kind: str
    """Class of the action that was about to be done; empty after the last."""


def deaths(trace: Path) -> list[Point]:
    """Return where it died, in order."""
    return [Point(**json.loads(line)) for line in trace.read_text().splitlines()]


def main() -> None:
    """Run until told to end."""
    settings, trace = load(Path(sys.argv[1])), Path(sys.argv[2])
    log.configure(node=settings.node)
    while _dies(settings, trace):
        pass


def _dies(settings: Settings, trace: Path) -> bool:
    """Live once; say whether that ended by a death."""
    did = ""

    async def before_action(action: Action | None) -> None:
        nonlocal did
        point = Point(did, str(action or ""), type(action).__name__ if action else "")
        did = str(action or "")
        if point not in deaths(trace):
            _note(trace, point)
            raise _Death

    died = False
    try:
        asyncio.run(daemon.run_agent(settings, before_action=before_action))
    except* _Death:
        died = True
    return died


def _note(trace: Path, point: Point) -> None:
    with trace.open("a") as file:
        file.write(json.dumps(asdict(point)) + "\n")


if __name__ == "__main__":
    main()

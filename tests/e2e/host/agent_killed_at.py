"""
The real agent, with a list of what it did, and a death foretold: SIGKILL right before its N-th action.

Run as ``python -m tests.e2e.host.agent_killed_at CONFIG TRACE [N]``; the names of the actions go to TRACE, a line each.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from agent import daemon, log
from agent.config import load
from agent.core.host.actions import Action


def main() -> None:
    """Run the agent until it is told to end, or dies."""
    settings, trace = load(Path(sys.argv[1])), Path(sys.argv[2])
    dies_before = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    log.configure(node=settings.node)
    done = 0

    async def before_action(action: Action | None) -> None:
        nonlocal done
        if action is None:
            return
        done += 1
        if done == dies_before:
            os.kill(os.getpid(), signal.SIGKILL)
        _note(trace, type(action).__name__)

    asyncio.run(daemon.run_agent(settings, before_action=before_action))


def _note(trace: Path, name: str) -> None:
    with trace.open("a") as file:
        file.write(f"{name}\n")


if __name__ == "__main__":
    main()

"""
The real agent, as it will be once records have the next version: it reads both.

Run as ``python -m tests.e2e.fleet.newer_agent CONFIG``.
"""

import asyncio
import sys
from pathlib import Path

from agent.core.model import record

record.RECORD_VERSION += 1


def main() -> None:
    """Run the agent until it is told to end."""
    from agent import daemon, log  # whatever reads the version reads the new one
    from agent.config import load

    settings = load(Path(sys.argv[1]))
    log.configure(node=settings.node)
    asyncio.run(daemon.run_agent(settings))


if __name__ == "__main__":
    main()

"""
Take this host out of traffic before it stops, and back into it after the boot.

At shutdown, while agent, HAProxy and containers still work: tell load balancers, then wait until nothing is open.
The agent remembers that it left, as an operator's ``tidegate leave`` outlives a reboot; so the boot takes back what
the shutdown did, and only that: a mark in the state directory tells the two apart.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.host.agent_api import ask
from agent.core.model.errors import TidegateError
from agent.core.model.report import NodeReport

SETTLE_S = 3.0
"""Within it a load balancer that asks each second has noticed."""
RETURN_S = 60.0
"""At boot the agent may not answer yet."""
DRAIN_S = 25.0
"""Longest time that open requests get, unless the unit says otherwise (``DRAIN_S``)."""
ASK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Drain:
    """The shutdown, and the boot after it, of one host."""

    port: int
    """Of the agent's API."""
    mark: Path

    def end(self) -> None:
        """
        Return the host to traffic where the shutdown took it out.

        Raises:
            TidegateError: the agent does not answer within a minute.
        """
        deadline = time.monotonic() + RETURN_S
        while self.mark.exists():
            try:
                ask(self.port, "POST", "/v1/return")
            except TidegateError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(ASK_EVERY_S)
            else:
                self.mark.unlink()

    def begin(self, seconds: float) -> bool:
        """
        Take the host out of traffic and wait, *seconds* at most, until nothing is open; return whether nothing is.

        Raises:
            TidegateError: the agent does not answer.
        """
        deadline, settle_until = time.monotonic() + seconds, time.monotonic() + SETTLE_S
        if not self._report().is_leaving:
            self.mark.touch()
        ask(self.port, "POST", "/v1/leave")
        while time.monotonic() < deadline:
            time.sleep(ASK_EVERY_S)
            try:
                now = self._report()
            except TidegateError:
                continue  # the agent may be about to start again, and HAProxy serves on meanwhile
            if time.monotonic() > settle_until and now.is_leaving and now.is_quiet:
                return True
        return False

    def _report(self) -> NodeReport:
        return NodeReport.model_validate(ask(self.port, "GET", "/v1/status"))


def this_host() -> Drain | None:
    """Return the drain of this host by its settings; None on one without apps."""
    from agent.config import load  # noqa: PLC0415 - slow to import, and a stub has no settings

    settings = load()
    return Drain(settings.api.port, settings.state_dir / "left-at-shutdown") if settings.apps else None


def longest_s() -> float:
    """Return how long open requests get."""
    return float(os.environ.get("DRAIN_S", DRAIN_S))

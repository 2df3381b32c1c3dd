"""What a simulated host is put into, and what its agent reads."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.core.host.actions import Action
from agent.core.host.observed import Container
from agent.core.model.app import App
from agent.core.model.keys import Outcome, Unknown
from agent.core.model.record import RolloutRecord
from tests.sim.fleet.clock import Clock
from tests.sim.fleet.watching import Snapshots
from tests.sim.host.agent_model import Bug

if TYPE_CHECKING:
    from tests.sim.fleet.node import Node


@dataclass(slots=True)
class Reading:
    """What the agent read last."""

    outcome: Outcome = field(default_factory=lambda: Unknown("not read yet"))
    record: RolloutRecord | None = None

    @property
    def away(self) -> str:
        """Why there is no answer; empty when there is."""
        return self.outcome.reason if isinstance(self.outcome, Unknown) else ""

    def read(self) -> Outcome:
        """Return it."""
        return self.outcome

    def get(self, _: str) -> str | None:
        """Not known here: the fleet's monitor checks what is activated."""
        return None


@dataclass(slots=True)
class Surroundings:
    """What a host is put into."""

    clock: Clock
    snapshots: Snapshots
    app: App
    bug: Bug
    rng: random.Random
    took: Callable[["Node", Action, Container], None]
    """Told when new visitors begin to get a container."""
    ticked: Callable[["Node"], None]
    """Told after each tick."""


class Everything(set[str]):
    """The fleet's monitor checks activation: the host's own takes every release for activated."""

    def __contains__(self, _: object) -> bool:
        return True

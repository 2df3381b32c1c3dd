"""What a simulated host of a fleet is put into."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.core.host.actions import Action
from agent.core.host.observed import Container
from agent.core.model.app import App
from agent.core.model.record import RolloutRecord
from tests.sim.host.agent import Bug
from tests.sim.world_clock import WorldClock

if TYPE_CHECKING:
    from tests.sim.fleet.node import Node


@dataclass(frozen=True, slots=True)
class Nothing:
    """What Consul holds, for the monitor of one host: the fleet's own monitor checks what is activated."""

    record: RolloutRecord | None = None

    def get(self, _: str) -> str | None:
        """Return nothing."""
        return None


@dataclass(slots=True)
class Surroundings:
    """What a host is put into."""

    clock: WorldClock
    app: App
    bug: Bug
    rng: random.Random
    took: Callable[["Node", Action, Container], None]
    """Told when new visitors begin to get a container."""
    ticked: Callable[["Node"], None]
    """Told after each tick."""
    crashed: Callable[[str], None]
    """Told when a loop of an agent ended by an error of its own."""


class Everything(set[str]):
    """The fleet's monitor checks activation: the host's own takes every release for activated."""

    def __contains__(self, _: object) -> bool:
        return True

"""What the agent and its monitor need of the host they are on: the one-host world, or one of a fleet."""

from typing import TYPE_CHECKING, Protocol

from agent.core.model.app import App
from agent.core.model.names import NodeName, SlotName
from agent.core.model.record import RolloutRecord
from tests.sim.host.docker_model import DockerModel
from tests.sim.host.proxy_model import ProxyModel

if TYPE_CHECKING:
    from tests.sim.host.agent import Agent
    from tests.sim.host.monitor import Monitor


class DesiredState(Protocol):
    """What Consul holds of the app, for the monitor of one host."""

    @property
    def record(self) -> RolloutRecord | None:
        """The rollout record as it is."""

    def get(self, key: str) -> str | None:
        """Return the value of ``active`` or ``stage``."""


class Place(Protocol):
    """A simulated host."""

    app: App
    docker: DockerModel
    proxy: ProxyModel

    @property
    def now(self) -> float:
        """Monotonic seconds."""

    @property
    def node(self) -> NodeName:
        """Name of the host."""

    @property
    def boot_wait_s(self) -> float:
        """How long a booting agent waits for Consul."""

    @property
    def consul(self) -> DesiredState:
        """What it reads."""

    @property
    def monitor(self) -> "Monitor":
        """Who watches it."""

    @property
    def agent(self) -> "Agent":
        """Its agent."""

    def sync(self) -> None:
        """Bring HAProxy to the present."""

    def close_sessions(self, slot: SlotName) -> None:
        """Do what `shutdown sessions` does."""

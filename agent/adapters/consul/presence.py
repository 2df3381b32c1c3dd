"""How an agent shows itself in Consul: its report, and its services with what their metadata says."""

from dataclasses import dataclass

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import agent_service, app_service, register_service
from agent.core.host.build_report import Identity
from agent.core.model.app import App
from agent.core.model.keys import node_report
from agent.core.model.names import NodeName
from agent.core.model.report import NodeReport


@dataclass(frozen=True, slots=True)
class Presence:
    """One agent, as the catalog shows it; the fleet's membership and its coordinators come from there."""

    client: ConsulClient
    node: NodeName
    api_port: int
    """Loopback port of the agent's API, which Consul checks."""
    is_coordinator: bool

    async def write_report(self, app: App, report: NodeReport) -> None:
        """Write the host's report; errors as of a put."""
        key = node_report(app.name, self.node)
        await self.client.put(key, report.model_dump_json(exclude_defaults=True).encode())

    async def register_host(self, app: App, report: NodeReport) -> None:
        """Register the app on this host, and its agent; errors as of a registration."""
        serving = next(((slot, shown) for slot, shown in report.slots.items() if shown.is_up), None)
        meta = _meta(report.instance, report.agent, report.zone, report.machine)
        if serving is not None:
            slot, shown = serving
            meta |= {"slot": str(slot), "release": shown.release, "image": shown.image}
        host = "127.0.0.1" if app.bind.is_unspecified else str(app.bind)
        check = f"http://{host}:{app.port}/_lb/{app.name}"
        await register_service(self.client, app_service(app.name, self.node, app.port, check, meta))
        await self._register_agent(meta | {"app": app.name})

    async def register_agent(self, identity: Identity) -> None:
        """Register an agent without apps; errors as of a registration."""
        await self._register_agent(_meta(identity.instance, identity.agent, identity.zone, identity.machine))

    async def _register_agent(self, meta: dict[str, str]) -> None:
        whole = meta | {"node": self.node} | ({"coordinator": "true"} if self.is_coordinator else {})
        check = f"http://127.0.0.1:{self.api_port}/healthz"
        await register_service(self.client, agent_service(self.node, self.api_port, check, whole))


def _meta(instance: str, version: str, zone: str, machine: str) -> dict[str, str]:
    place = {"zone": zone, "machine": machine}
    return {"instance": instance, "version": version} | {key: value for key, value in place.items() if value}

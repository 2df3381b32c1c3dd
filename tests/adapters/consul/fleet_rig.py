"""A fleet as the catalog and the keys of a Consul, fake or real, show it."""

import json
from dataclasses import dataclass

from agent.adapters.consul.fleet import Fence, FleetReading, write_change
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import AGENT_SERVICE
from agent.adapters.consul.sessions import SessionSpec, create_session
from agent.adapters.consul.transport import Request as HttpRequest
from agent.adapters.consul.wire import Op, TxnDone, TxnResult, Verb
from agent.core.model import keys
from agent.core.model.names import AppName, parse_node
from agent.core.model.record import Phase
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.states import SlotPhase
from agent.core.rollout.change import Change, writes_of
from agent.core.rollout.commands import CommandAuthor
from tests.adapters.consul.suite import Server

BY = CommandAuthor("ann", "new prices", 0.0)

RELEASE = {"image": f"shop:b@sha256:{'b' * 64}", "release": "b" * 12, "pin": "1" * 12}


def report(app: AppName, node: str, **changes: object) -> bytes:
    """Return a host's report as Consul holds it."""
    whole = NodeReport(
        app=app,
        node=node,
        instance=f"{node}-boot",
        agent="1",
        phase=SlotPhase.EMPTY,
        summary="nothing runs",
        is_ready=True,
        slots={slot: SlotReport(phase=SlotPhase.EMPTY) for slot in ("blue", "green")},
    )
    return json.dumps(whole.model_dump(mode="json") | changes).encode()


def record(phase: Phase, generation: int = 3) -> bytes:
    """Return a record as Consul holds it."""
    whole = {"v": 1, "generation": generation, "seq": 4, "phase": phase, "target": RELEASE}
    return json.dumps(whole).encode()


@dataclass(frozen=True, slots=True)
class FakeFleet:
    """A server, an app on it, and a client that may do everything the server lets it."""

    server: Server
    client: ConsulClient
    app: AppName

    async def agent_lives(self, node: str, /, **meta: str) -> None:
        """Register an agent as the catalog shows it; `status` is its check's."""
        status = meta.pop("status", "passing")
        service = f"{self.app}-{node}-agent"
        body = {
            "Node": f"{self.app}-{node}",
            "Address": "127.0.0.1",
            "Service": {
                "ID": service,
                "Service": AGENT_SERVICE,
                "Port": 1,
                "Meta": {"node": node, "app": self.app, "instance": f"{node}-boot"} | meta,
            },
            "Check": {"CheckID": service, "Name": service, "ServiceID": service, "Status": status},
        }
        await self.client.http.send(HttpRequest("PUT", "/v1/catalog/register", body=json.dumps(body).encode()))

    async def host(self, node: str) -> None:
        """Let a host report and live."""
        await self.client.put(keys.node_report(self.app, parse_node(node)), report(self.app, node))
        await self.agent_lives(node)

    async def locked(self) -> Fence:
        """Take the coordinators' lock with a session of its own."""
        session = await create_session(self.client, SessionSpec("lab"))
        result = await self.client.txn(Op(Verb.LOCK, keys.coordinator(self.app), b"{}", session=session))
        assert isinstance(result, TxnDone)
        return Fence(session)

    async def write(self, change: Change, reading: FleetReading, fence: Fence | None = None) -> TxnResult:
        """Write a change that follows from *reading*."""
        writes = writes_of(self.app, change, reading.indexes, by="web-1", now=1.0)
        return await write_change(self.client, self.app, writes, fence)

"""A fleet that exists in Consul only: agents in the catalog and their reports, as many as are wanted."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from agent.core.model.keys import node_report
from agent.core.model.names import AppName, NodeName, SlotName
from agent.core.model.record import RecordedRelease
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase
from cluster.servers.consul import ConsulServer

T = TypeVar("T")
WRITERS = 64
"""Hosts that write at the same moment."""


@dataclass(frozen=True, slots=True)
class Population:
    """Hosts of one app in one Consul."""

    consul: ConsulServer
    app: AppName
    nodes: Sequence[NodeName]

    async def register(self) -> None:
        """Let every agent live: in the catalog, with a check that passes."""
        async with self._http() as http:
            await _each(self.nodes, lambda node: self._put(http, "/v1/catalog/register", _service(self.app, node)))

    async def report(self, reports: Iterable[NodeReport]) -> None:
        """Write reports, many at a time."""
        async with self._http() as http:
            await _each(
                list(reports),
                lambda report: self._put(
                    http,
                    f"/v1/kv/{node_report(self.app, NodeName(report.node))}",
                    report.model_dump_json(exclude_defaults=True),
                ),
            )

    def _http(self) -> aiohttp.ClientSession:
        headers = {"X-Consul-Token": self.consul.token} if self.consul.token else {}
        trust = True if self.consul.tls is None else self.consul.tls.trusting()
        connector = aiohttp.TCPConnector(limit=0, ssl=trust)
        return aiohttp.ClientSession(self.consul.address, headers=headers, connector=connector)

    async def _put(self, http: aiohttp.ClientSession, path: str, body: str) -> None:
        async with http.put(path, data=body) as reply:
            reply.raise_for_status()


def staged(app: AppName, node: NodeName, source: RecordedRelease, target: RecordedRelease | None) -> NodeReport:
    """Return the report of a host that serves *source* and has *target* staged (None: a free slot)."""
    green = (
        SlotReport(phase=SlotPhase.EMPTY, state=AdminState.MAINT, open_requests=0)
        if target is None
        else _slot(node, target, SlotPhase.STAGED, AdminState.DRAIN)
    )
    return NodeReport(
        app=app,
        node=node,
        instance=instance_of(node),
        agent="0.1.0",
        generation=0 if target is None else 1,
        seq=0 if target is None else 2,
        phase=SlotPhase.SERVING if target is None else SlotPhase.STAGED,
        summary=f"blue serving {source.image}" + (f", green staged {target.image}" if target else ""),
        is_ready=True,
        gate=ReadinessGate.OPEN,
        old_workers=0,
        wants=source.image,
        holds=target.image if target else "",
        slots={SlotName.BLUE: _slot(node, source, SlotPhase.SERVING, AdminState.READY), SlotName.GREEN: green},
    )


def instance_of(node: NodeName) -> str:
    """Return a host's agent instance id."""
    return f"{uuid.uuid5(uuid.NAMESPACE_DNS, node)}.1795549123456"


def _slot(node: NodeName, release: RecordedRelease, phase: SlotPhase, state: AdminState) -> SlotReport:
    waits = state is AdminState.DRAIN
    return SlotReport(
        phase=phase,
        image=release.image,
        release=release.release,
        digest=release.image.partition("@")[2],
        pin=release.pin,
        generation=1,
        container=uuid.uuid5(uuid.NAMESPACE_DNS, f"{node}.{release.release}").hex[:12],
        state=state,
        is_up=not waits,
        is_staged=waits,
        open_requests=0 if waits else None,
    )


def _service(app: AppName, node: NodeName) -> str:
    meta = {"node": node, "app": app, "instance": instance_of(node), "version": "0.1.0"}
    service = {"ID": f"tidegate-agent-{node}", "Service": "tidegate-agent", "Port": 8405, "Meta": meta}
    check = {"CheckID": f"service:tidegate-agent-{node}", "Name": "agent", "Status": "passing"}
    return json.dumps(
        {
            "Node": node,
            "Address": "127.0.0.1",
            "SkipNodeUpdate": False,
            "Service": service,
            "Check": check | {"ServiceID": service["ID"]},
        },
    )


async def _each(items: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
    """Do it for every item, *WRITERS* at a time."""
    gate = asyncio.Semaphore(WRITERS)

    async def one(item: T) -> None:
        async with gate:
            await do(item)

    async with asyncio.TaskGroup() as group:
        for item in items:
            group.create_task(one(item))

"""
Services of this host in the local Consul agent, and who is alive according to the catalog.

Each host registers ``<app>`` (the port of its HAProxy, checked through HAProxy) and ``tidegate-agent`` (checked on
the agent's own API). Registering again replaces the service and keeps the state of its check.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from itertools import islice
from urllib.parse import quote

from pydantic import BaseModel, Field, TypeAdapter

from agent.adapters.consul.kv import Block, Consistency, ConsulClient
from agent.adapters.consul.transport import DEADLINE_S, Request
from agent.adapters.consul.wire import decode, read_index
from agent.core.model.errors import TidegateError
from agent.core.model.names import AppName, NodeName

AGENT_SERVICE = "tidegate-agent"
META_MAX_PAIRS = 64
META_KEY_MAX_CHARS = 128
META_VALUE_MAX_BYTES = 512
_NOT_IN_META_KEY = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Service:
    """A service of this host with one HTTP check, made by the local Consul agent."""

    id: str
    name: str
    port: int
    check_url: str
    """Must answer 2xx."""
    meta: Mapping[str, str]


def app_service(app: AppName, node: NodeName, port: int, check_url: str, meta: Mapping[str, str]) -> Service:
    """Describe an app on this host: *port* of its HAProxy, *check_url* through HAProxy."""
    return Service(f"{app}-{node}", app, port, check_url, meta)


def agent_service(node: NodeName, port: int, check_url: str, meta: Mapping[str, str]) -> Service:
    """Describe the agent of this host; the fleet's membership comes from this service."""
    return Service(f"{AGENT_SERVICE}-{node}", AGENT_SERVICE, port, check_url, meta)


def fit_meta(meta: Mapping[str, str]) -> dict[str, str]:
    """
    Cut *meta* to what Consul takes; never fails.

    At most 64 pairs, keys of 128 ``[A-Za-z0-9_-]`` (others become ``_``; the reserved ``consul-`` gets ``x-`` in
    front; an empty one is left out), values of 512 bytes of UTF-8.
    """
    fitted: dict[str, str] = {}
    for key, value in meta.items():
        name = _NOT_IN_META_KEY.sub("_", key)
        name = f"x-{name}" if name.lower().startswith("consul-") else name
        if name:
            cut = value.encode(errors="replace")[:META_VALUE_MAX_BYTES].decode(errors="ignore")
            fitted.setdefault(name[:META_KEY_MAX_CHARS], cut)
    return dict(islice(fitted.items(), META_MAX_PAIRS))


async def register_service(client: ConsulClient, service: Service) -> None:
    """
    Register *service*, replacing the one of that id. Idempotent; a passing check stays passing.

    Raises:
        ConsulForbiddenError: the token may not write this service.
        ConsulUnavailableError: the local agent gave no usable answer.
    """
    body = {
        "ID": service.id,
        "Name": service.name,
        "Port": service.port,
        "Meta": fit_meta(service.meta),
        "Check": {
            "HTTP": service.check_url,
            "Interval": "5s",
            "Timeout": "2s",
            # Not the minimum of 1m: a stuck host would vanish from the list of what is wrong.
            "DeregisterCriticalServiceAfter": "15m",
        },
    }
    path = "/v1/agent/service/register"
    await client.http.send(Request("PUT", path, {"replace-existing-checks": "true"}, json.dumps(body).encode()))


async def deregister_service(client: ConsulClient, service_id: str) -> None:
    """Remove a service of this host. Idempotent; errors as :func:`register_service`."""
    name = quote(service_id, safe="")
    try:
        await client.http.send(Request("PUT", f"/v1/agent/service/deregister/{name}"))
    except TidegateError:
        # An unknown id is an error whose status differs by version: look whether the service is there.
        accept = frozenset({HTTPStatus.OK, HTTPStatus.NOT_FOUND})
        reply = await client.http.send(Request("GET", f"/v1/agent/service/{name}", accept=accept))
        if reply.status != HTTPStatus.NOT_FOUND:
            raise


async def set_maintenance(client: ConsulClient, service_id: str, *, enabled: bool, reason: str = "") -> None:
    """Put a service into maintenance (critical, whatever its check says) or out of it. Idempotent."""
    params = {"enable": "true" if enabled else "false", "reason": reason}
    await client.http.send(Request("PUT", f"/v1/agent/service/maintenance/{quote(service_id, safe='')}", params))


class CheckStatus(StrEnum):
    """Consul's health words, best first."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True)
class Instance:
    """A service of some host, with the worst of its checks and of its host's."""

    id: str
    consul_node: str
    """Consul's name of the host; need not be ours."""
    address: str
    port: int
    meta: Mapping[str, str]
    status: CheckStatus


@dataclass(frozen=True, slots=True)
class Instances:
    """All instances of a service; empty also where the token may not read them."""

    instances: tuple[Instance, ...]
    index: int
    is_filtered: bool


class _Node(BaseModel):
    node: str = Field(alias="Node")
    address: str = Field(alias="Address")


class _Service(BaseModel):
    id: str = Field(alias="ID")
    address: str = Field(alias="Address", default="")
    port: int = Field(alias="Port")
    meta: dict[str, str] | None = Field(alias="Meta", default=None)


class _Check(BaseModel):
    id: str = Field(alias="CheckID")
    status: CheckStatus = Field(alias="Status")


class _Health(BaseModel):
    node: _Node = Field(alias="Node")
    service: _Service = Field(alias="Service")
    checks: list[_Check] = Field(alias="Checks")

    def as_instance(self) -> Instance:
        order = list(CheckStatus)
        statuses = [
            CheckStatus.MAINTENANCE
            if check.id.startswith(("_service_maintenance", "_node_maintenance"))
            else check.status
            for check in self.checks
        ]
        return Instance(
            id=self.service.id,
            consul_node=self.node.node,
            address=self.service.address or self.node.address,
            port=self.service.port,
            meta=self.service.meta or {},
            status=max(statuses, key=order.index, default=CheckStatus.PASSING),
        )


_HEALTH = TypeAdapter(list[_Health])


async def health_service(
    client: ConsulClient, name: str, *, consistency: Consistency = Consistency.DEFAULT, block: Block | None = None
) -> Instances:
    """
    List all instances of a service with their health, whatever it is; with *block* once something of it changed.

    A token without the right to read sees an empty list: who registered itself checks that it is in it.

    Raises:
        ConsulUnavailableError: no usable answer.
    """
    query = {"consistent": ""} if consistency is Consistency.CONSISTENT else {}
    path, deadline_s = f"/v1/health/service/{quote(name, safe='')}", DEADLINE_S
    if block is not None:
        query |= block.query
        deadline_s = block.deadline_s
    reply = await client.http.send(Request("GET", path, query, deadline_s=deadline_s))
    filtered = reply.headers.get("X-Consul-Results-Filtered-By-ACLs", "").lower() == "true"
    found = decode(client.name, _HEALTH, reply)
    return Instances(tuple(health.as_instance() for health in found), read_index(client.name, reply), filtered)


class _Config(BaseModel):
    version: str = Field(alias="Version")
    node_name: str = Field(alias="NodeName")
    datacenter: str = Field(alias="Datacenter")
    server: bool = Field(alias="Server", default=False)


class _Self(BaseModel):
    config: _Config = Field(alias="Config")


_SELF = TypeAdapter(_Self)


@dataclass(frozen=True, slots=True)
class AgentSelf:
    """The local Consul agent about itself."""

    version: str
    consul_node: str
    datacenter: str
    is_server: bool


async def agent_self(client: ConsulClient) -> AgentSelf:
    """Ask the local agent who it is; answers without a leader, needs ``agent:read``."""
    config = decode(client.name, _SELF, await client.http.send(Request("GET", "/v1/agent/self"))).config
    return AgentSelf(config.version, config.node_name, config.datacenter, config.server)

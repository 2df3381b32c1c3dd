"""
Consul's HTTP API in memory, below the real client: the part of it that agents, coordinators and commands use.

The contract suite of the adapter holds it to a real server (tests/sim/consul/test_contract.py).
"""

import base64
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import AGENT_SERVICE, Instance
from agent.adapters.consul.transport import Reply, Request
from agent.adapters.consul.wire import Op, TxnDone, Verb
from agent.core.model.errors import ConsulForbiddenError, PermanentError
from agent.core.model.keys import KeyValue
from tests.sim.consul.link import Link
from tests.sim.consul.servers import SimConsul, Topic

_OK = int(HTTPStatus.OK)
_KV = "/v1/kv/"
_SESSION = re.compile(r"/v1/session/(renew|destroy)/(.+)")
_REGISTER = "/v1/agent/service/register"
_HEALTH = f"/v1/health/service/{AGENT_SERVICE}"
Answer = tuple[int, int, bytes]
"""Status, index (0: none), body."""


Sending = Callable[[Request], Awaitable[None]]
"""Called before a request leaves; may let time pass."""


async def send_at_once(_: Request) -> None:
    """Do nothing before a request."""


@dataclass(slots=True)
class SimTransport:
    """
    What the client takes for its connection.

    Args:
        machine: whose local agent it is; sessions and services are of it.
        by: signs what is written, for the monitors.
    """

    link: Link
    machine: str
    by: str
    before: Sending = send_at_once
    is_forbidden: bool = False
    """The token is refused."""
    name: str = field(default="the simulated Consul")

    async def close(self) -> None:
        """There is nothing to close."""

    async def send(self, request: Request) -> Reply:
        """Answer as :meth:`agent.adapters.consul.transport.Transport.send` does; errors as well."""
        await self.before(request)
        read = self._reader_of(request)
        if "index" in request.params:
            await self.link.wait(
                self._topic_of(request), int(request.params["index"]), _seconds(request.params["wait"])
            )
        status, index, body = await self.link.ask(read, request.deadline_s)
        if status in request.accept:
            return Reply(status, {"X-Consul-Index": str(max(1, index))} if index else {}, body)
        said = f"{self.name}: {status} {body.decode()}"
        raise ConsulForbiddenError(said) if status == HTTPStatus.FORBIDDEN else PermanentError(said)

    def _topic_of(self, request: Request) -> Topic:
        if request.path == _HEALTH:
            return self.link.consul.agents
        return self.link.consul.topic(request.path.removeprefix(_KV), is_prefix="recurse" in request.params)

    def _reader_of(self, request: Request) -> Callable[[], Answer]:
        path, consul = request.path, self.link.consul
        if self.is_forbidden:
            return lambda: (HTTPStatus.FORBIDDEN, 0, b"Permission denied")
        if path.startswith(_KV):
            return lambda: self._kv(request)
        if path == "/v1/txn":
            return lambda: _txn(consul, request, self.by)
        if path == "/v1/session/create":
            return lambda: (_OK, 0, json.dumps({"ID": consul.open_session(self.machine)}).encode())
        if found := _SESSION.fullmatch(path):
            return lambda: _session(consul, *found.groups())
        if path == _REGISTER:
            return lambda: self._register(request)
        if path == _HEALTH:
            return lambda: (_OK, consul.agents.index, _instances(tuple(consul.catalog.values())))
        raise NotImplementedError(path)

    def _kv(self, request: Request) -> Answer:
        consul, key = self.link.consul, request.path.removeprefix(_KV)
        if request.method == "GET":
            is_prefix = "recurse" in request.params
            entry = None if is_prefix else consul.get(key)
            entries = consul.list(key) if is_prefix else (entry,) if entry else ()
            index = consul.topic(key, is_prefix=is_prefix).index
            status = HTTPStatus.OK if entries else HTTPStatus.NOT_FOUND
            return status, index, b"[" + b",".join(_entry(each) for each in entries) + b"]"
        value, index = request.body or b"", int(request.params.get("cas", -1))
        if request.method == "PUT":
            op = Op(Verb.SET, key, value) if index < 0 else Op(Verb.CAS, key, value, index)
        else:
            op = Op(Verb.DELETE, key) if index < 0 else Op(Verb.DELETE_CAS, key, index=index)
        done = isinstance(consul.txn((op,), self.by), TxnDone)
        return _OK, 0, b"true" if done else b"false"

    def _register(self, request: Request) -> Answer:
        asked = json.loads(request.body or b"{}")
        if asked["Name"] == AGENT_SERVICE:
            self.link.consul.register(self.machine, asked["Meta"])
        return _OK, 0, b""


def client_over(transport: SimTransport) -> ConsulClient:
    """Return the real client over *transport*."""
    client = ConsulClient("http://127.0.0.1:1")
    client.http = transport
    return client


def _session(consul: SimConsul, verb: str, session: str) -> Answer:
    if verb == "destroy":
        consul.end_session(session)
        return _OK, 0, b"true"
    return (_OK, 0, b"[]") if consul.renew(session) else (HTTPStatus.NOT_FOUND, 0, b"")


def _txn(consul: SimConsul, request: Request, by: str) -> Answer:
    ops = tuple(_op(each["KV"]) for each in json.loads(request.body or b"[]"))
    result = consul.txn(ops, by)
    if isinstance(result, TxnDone):
        entries = b",".join(b'{"KV":' + _entry(each) + b"}" for each in result.results)
        return _OK, 0, b'{"Results":[' + entries + b'],"Errors":null}'
    errors = [{"OpIndex": result.op_index, "What": result.what}]
    return HTTPStatus.CONFLICT, 0, json.dumps({"Results": None, "Errors": errors}).encode()


def _op(wire: dict[str, Any]) -> Op:
    value = base64.b64decode(wire.get("Value", ""))
    return Op(Verb(wire["Verb"]), wire["Key"], value, wire.get("Index", 0), wire.get("Session", ""))


@lru_cache(maxsize=8192)
def _entry(entry: KeyValue) -> bytes:
    wire = {"Key": entry.key, "Value": base64.b64encode(entry.value).decode(), "ModifyIndex": entry.modify_index}
    return json.dumps(wire | ({"Session": entry.session} if entry.session else {})).encode()


def _instances(found: tuple[Instance, ...]) -> bytes:
    return json.dumps(
        [
            {
                "Node": {"Node": each.consul_node, "Address": "127.0.0.1"},
                "Service": {"ID": each.id, "Port": each.port, "Meta": dict(each.meta)},
                "Checks": [{"CheckID": f"service:{each.id}", "Status": each.status}],
            }
            for each in found
        ]
    ).encode()


def _seconds(wait: str) -> float:
    return float(wait.removesuffix("ms")) / 1000

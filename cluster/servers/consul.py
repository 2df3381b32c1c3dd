"""Real Consul servers, alone or three together, which tests may kill, freeze and restart; they keep their data."""

import asyncio
import json
import re
import ssl
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from cluster.servers.certificates import Certificates
from cluster.servers.ports import free_port
from cluster.servers.process import ServerProcess, eventually, listens
from cluster.servers.tools import LabError, run

REQUEST_S = 10
AGENT_RULES = 'node_prefix "" { policy = "write" } service_prefix "" { policy = "read" }'
"""What a Consul agent's own token may do."""


class ConsulServer:
    """
    A Consul server on loopback: `address` is its URL.

    With *acl* nothing is allowed but by a token: `token` is the management token (None without *acl*), which
    the helpers here use. With *tls* it speaks HTTPS alone.
    """

    def __init__(
        self, home: Path, *, acl: bool, name: str = "lab", is_client: bool = False, tls: Certificates | None = None
    ) -> None:
        self.home = home
        self.acl = acl
        self.tls = tls
        self.name = name
        self.is_client = is_client
        """It only passes on what the servers, its peers, say: the local agent of a web host."""
        self.peers: Sequence[ConsulServer] = ()
        """The other servers of its cluster."""
        self.serf_port = free_port()
        self.raft_port = free_port()
        self.token: str | None = None
        self.tokens: dict[str, str] = {}
        """ACL tokens in its configuration, by purpose."""
        self.port = free_port()
        self.address = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self.process = ServerProcess(
            ["consul", "agent", "-config-file", str(home / "consul.json")],
            log=home / "consul.log",
        )

    async def start(self) -> None:
        """Start it for the first time; returns when it takes writes (in a cluster: when it answers at all)."""
        version = await run(["consul", "version"], timeout_s=10)
        (self.home / "consul.json").write_text(json.dumps(self._config(_minor(version))))
        if self.peers and not self.is_client:
            await self.process.start(lambda: listens(self.port), deadline_s=20)
            return
        await self.process.start(self.takes_writes, deadline_s=20)
        if self.acl and not self.is_client:
            if not await eventually(self._bootstraps, deadline_s=15):
                raise LabError(f"consul did not bootstrap its ACLs:\n{self.process.log_tail()}")
            await self._api("PUT", "/v1/agent/token/agent", {"Token": self.token})

    async def restart(self) -> None:
        """Start it again after `kill` or `stop`, at the same address with the same data."""
        await self.process.stop()
        await self.process.start(self.takes_writes, deadline_s=20)

    async def stop(self) -> None:
        """Stop it. Idempotent."""
        await self.process.stop()

    def kill(self) -> None:
        """Kill it at once."""
        self.process.kill()

    def freeze(self) -> None:
        """Let it hang: connections are accepted, nothing is answered."""
        self.process.pause()

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self.process.resume()

    async def put(self, key: str, value: str, *, cas: int | None = None) -> bool:
        """Write a key; with *cas* (a ModifyIndex, 0 = must not exist) say whether it still fitted."""
        suffix = "" if cas is None else f"?cas={cas}"
        return bool(await self._api("PUT", f"/v1/kv/{quote(key)}{suffix}", value))

    async def get(self, key: str) -> str | None:
        """Read a key's value; None where it is absent."""
        value: str | None = await self._api("GET", f"/v1/kv/{quote(key)}?raw&consistent", text=True)
        return value

    async def tree(self, prefix: str) -> dict[str, str]:
        """Read every key below *prefix*: full key to value."""
        keys: list[str] = await self._api("GET", f"/v1/kv/{quote(prefix)}?keys&consistent") or []
        return {key: await self.get(key) or "" for key in keys}

    async def delete(self, key: str, *, recurse: bool = False) -> None:
        """Delete a key, or with *recurse* all that begin with it."""
        await self._api("DELETE", f"/v1/kv/{quote(key)}{'?recurse' if recurse else ''}")

    async def txn(self, operations: Sequence[Mapping[str, Any]]) -> Any:
        """Run operations in Consul's own JSON (values in base64) as one transaction; LabError if refused."""
        return await self._api("PUT", "/v1/txn", list(operations))

    async def save(self, file: Path) -> None:
        """Write a snapshot of everything to *file*."""
        await run(["consul", "snapshot", "save", f"-http-addr={self.address}", str(file)], timeout_s=20)

    async def restore(self, file: Path) -> None:
        """Go back to the snapshot in *file*."""
        await run(["consul", "snapshot", "restore", f"-http-addr={self.address}", str(file)], timeout_s=20)

    async def services(self) -> dict[str, Any]:
        """Return the services registered with this agent, by id."""
        return dict(await self._api("GET", "/v1/agent/services"))

    async def create_token(self, rules: str) -> str:
        """Make a token that may do just what the policy *rules* (HCL) say; return its secret."""
        name = f"lab-{free_port()}"
        await self._api("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules})
        return str((await self._api("PUT", "/v1/acl/token", {"Policies": [{"Name": name}]}))["SecretID"])

    async def policies(self) -> dict[str, str]:
        """Return the rules of every ACL policy, by name."""
        listed = await self._api("GET", "/v1/acl/policies")
        whole = [await self._api("GET", f"/v1/acl/policy/{policy['ID']}") for policy in listed]
        return {policy["Name"]: policy["Rules"] for policy in whole}

    async def revoke(self, token: str) -> None:
        """Take a token that `create_token` made out of use."""
        tokens: list[dict[str, str]] = await self._api("GET", "/v1/acl/tokens")
        for listed in tokens:
            found = await self._api("GET", f"/v1/acl/token/{listed['AccessorID']}")
            if found["SecretID"] == token:
                await self._api("DELETE", f"/v1/acl/token/{listed['AccessorID']}")

    async def _api(self, method: str, path: str, body: object = None, *, text: bool = False) -> Any:
        headers = {"X-Consul-Token": self.token} if self.token else {}
        data = body if isinstance(body, str) or body is None else json.dumps(body)
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_S)) as session,
                session.request(method, self.address + path, data=data, headers=headers, ssl=self._trust()) as response,
            ):
                if response.status == 404:
                    return None
                answer = await response.text()
                if response.status != 200:
                    raise LabError(f"consul: {method} {path} answered {response.status}: {answer}")
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise LabError(f"consul: {method} {path}: no answer: {exc!r}") from exc
        return answer if text or not answer else json.loads(answer)

    async def _bootstraps(self) -> bool:
        """Take the management token; a server that has just got a leader still answers that its ACLs are old."""
        try:
            self.token = (await self._api("PUT", "/v1/acl/bootstrap"))["SecretID"]
        except LabError:
            return False
        return True

    async def is_leader(self) -> bool:
        """Say whether the others follow it, by its own word."""
        return str(await self._api("GET", "/v1/status/leader")) == f"127.0.0.1:{self.raft_port}"

    async def counts_voters(self) -> int:
        """Return how many servers may vote; 0 while it does not answer."""
        try:
            peers = await self._api("GET", "/v1/operator/raft/configuration")
        except LabError:
            return 0
        return sum(each["Voter"] for each in peers["Servers"])

    async def obeys(self) -> bool:
        """Say whether it knows the management token."""
        try:
            return bool(await self._api("GET", "/v1/acl/token/self"))
        except LabError:
            return False

    async def takes_writes(self) -> bool:
        """A leader that can also serve a consistent read (refused by ACLs counts) takes writes."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session,
                session.get(f"{self.address}/v1/kv/lab-ready?consistent", ssl=self._trust()) as response,
            ):
                return response.status in (200, 403, 404)
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _trust(self) -> ssl.SSLContext | bool:
        return True if self.tls is None else self.tls.trusting()

    def _config(self, minor: int) -> dict[str, Any]:
        ports = {
            "http": self.port if self.tls is None else -1,
            "https": -1 if self.tls is None else self.port,
            "serf_lan": self.serf_port,
            "server": self.raft_port,
            "serf_wan": -1,
            "dns": -1,
            "grpc": -1,
        }
        if minor >= 14:
            ports["grpc_tls"] = -1
        return {
            "node_name": self.name,
            "server": not self.is_client,
            **({} if self.is_client else {"bootstrap_expect": 1 + len(self.peers)}),
            "retry_join": [f"127.0.0.1:{peer.serf_port}" for peer in self.peers],
            "retry_interval": "1s",
            "data_dir": str(self.home / "data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": ports,
            "performance": {"raft_multiplier": 1},
            # Every blocking query of every agent in a test comes from one address.
            "limits": {"http_max_conns_per_client": 2000},
            "disable_update_check": True,
            **({} if self.tls is None else self.tls.consul_config()),
            "acl": {
                "enabled": self.acl,
                "default_policy": "deny" if self.acl else "allow",
                "enable_token_persistence": self.acl,
                "tokens": {_purpose(name, minor): token for name, token in self.tokens.items()},
            },
        }


def _purpose(name: str, minor: int) -> str:
    return "master" if name == "initial_management" and minor < 11 else name


def _minor(version: str) -> int:
    """Return 8 for 'Consul v1.8.7 ...'."""
    found = re.search(r"\bv1\.(\d+)\.", version)
    if found is None:
        raise LabError(f"no Consul 1.x: {version.strip()}")
    return int(found[1])


@asynccontextmanager
async def consul_server(*, acl: bool = False, tls: Certificates | None = None) -> AsyncIterator[ConsulServer]:
    """Run a Consul server of its own, empty at first."""
    with tempfile.TemporaryDirectory(prefix="tg-consul-") as home:
        server = ConsulServer(Path(home), acl=acl, tls=tls)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


@asynccontextmanager
async def consul_cluster(size: int = 3, *, acl: bool = False) -> AsyncIterator[list[ConsulServer]]:
    """Run *size* servers that elect a leader; returns when each of them takes writes. With *acl* as one server."""
    with tempfile.TemporaryDirectory(prefix="tg-consul-") as home:
        servers = [ConsulServer(Path(home) / f"lab-{n}", acl=acl, name=f"lab-{n}") for n in range(size)]
        management = str(uuid.uuid4())
        try:
            for server in servers:
                server.home.mkdir()
                server.peers = [other for other in servers if other is not server]
                if acl:
                    server.token = management
                    server.tokens = {"initial_management": management, "agent": management}
            await asyncio.gather(*(server.start() for server in servers))
            for server in servers:
                if not await eventually(server.obeys if acl else server.takes_writes, deadline_s=30):
                    raise LabError(f"{server.name} found no leader:\n{server.process.log_tail()}")
            yield servers
        finally:
            for server in servers:
                await server.stop()


@asynccontextmanager
async def consul_client(servers: Sequence[ConsulServer], *, name: str = "") -> AsyncIterator[ConsulServer]:
    """Run the agent that a host has beside itself; returns when it reaches the *servers*."""
    with tempfile.TemporaryDirectory(prefix="tg-consul-") as home:
        acl = servers[0].acl
        client = ConsulServer(Path(home), acl=acl, name=name or f"client-{free_port()}", is_client=True)
        client.peers = servers
        if acl:
            client.token = servers[0].token
            client.tokens = {"agent": await servers[0].create_token(AGENT_RULES)}
        try:
            await client.start()
            yield client
        finally:
            await client.stop()

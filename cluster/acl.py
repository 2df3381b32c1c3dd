"""Consul's ACLs for one cluster: bootstrap, policies, and the tokens that the machines already have."""

import base64
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from agent.adapters.consul.policies import Role, policy, policy_name
from agent.core.model.names import AppName
from cluster.secrets import Secrets
from cluster.servers.process import eventually
from cluster.servers.tools import LabError
from cluster.settings import APP

_FORMS_S = 60.0


class ConsulApi:
    """HTTPS to whichever Consul server the edge finds, with the management token once there is one."""

    def __init__(self, port: int, secrets: Secrets) -> None:
        self.address = f"https://127.0.0.1:{port}"
        self._secrets = secrets
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        trust = ssl.create_default_context(cafile=self._secrets.ca)
        connector = aiohttp.TCPConnector(ssl=trust, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10))
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, method: str, path: str, *, text: str | None = None, json: Any = None) -> Any:
        """
        Ask, and return the JSON document (None for 404).

        Raises:
            LabError: no server answers, or it refuses.
        """
        assert self._session is not None
        headers = {"X-Consul-Token": self._secrets.tokens.get("management", "")}
        try:
            async with self._session.request(
                method, f"{self.address}/v1/{path}", data=text, json=json, headers=headers
            ) as reply:
                if reply.status == 404:
                    return None
                if reply.status != 200:
                    raise LabError(f"Consul: {method} {path}: {reply.status} {await reply.text()}")
                return await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise LabError(f"Consul: {method} {path}: no answer: {exc}") from exc

    async def put(self, key: str, value: str) -> None:
        """Set a key."""
        await self.ask("PUT", f"kv/{key}", text=value)

    async def get(self, key: str) -> str | None:
        """Return the value of a key."""
        found = await self.ask("GET", f"kv/{key}")
        return base64.b64decode(found[0]["Value"] or "").decode() if found else None

    async def shows(self, service: str, count: int) -> bool:
        """Whether the catalog has at least *count* instances of *service*."""
        try:
            return len(await self.ask("GET", f"catalog/service/{service}") or ()) >= count
        except LabError:
            return False

    async def leader(self) -> str:
        """Return the address of the leader; empty while there is none."""
        try:
            return str(await self.ask("GET", "status/leader") or "").partition(":")[0]
        except LabError:
            return ""

    async def bootstrap(self) -> None:
        """Wait for a leader, take the management token, and write all policies."""

        async def bootstraps() -> bool:
            try:
                made = await self.ask("PUT", "acl/bootstrap")
            except LabError:
                return False
            self._secrets.tokens["management"] = made["SecretID"]
            return True

        if not await eventually(bootstraps, deadline_s=_FORMS_S):
            raise LabError(f"the Consul servers have not formed a cluster within {_FORMS_S:g} s")
        self._secrets.save()
        for role in Role:
            await self._make_policy(policy_name(role, AppName(APP)), policy(role, AppName(APP)))

    async def create_machine_tokens(self, node: str, role: Role) -> None:
        """Let Consul know the two tokens of a machine: its Consul agent's, and its Tidegate agent's in *role*."""
        rules = f'node "{node}" {{ policy = "write" }} service_prefix "" {{ policy = "read" }}'
        await self._make_policy(f"agent-{node}", rules)
        await self._make(f"agent/{node}", f"agent-{node}")
        await self._make(f"{role}/{node}", policy_name(role, AppName(APP)))

    async def create_people_tokens(self) -> None:
        """Let Consul know the tokens of those who deploy, and of those who look."""
        for role in (Role.OPERATOR, Role.READ_ONLY):
            await self._make(str(role), policy_name(role, AppName(APP)))

    async def revoke(self, purpose: str) -> None:
        """Delete the token for *purpose*."""
        for each in await self.ask("GET", "acl/tokens"):
            if each["Description"] == purpose:
                await self.ask("DELETE", f"acl/token/{each['AccessorID']}")

    async def _make_policy(self, name: str, rules: str) -> None:
        await self._insist("acl/policy", {"Name": name, "Rules": rules}, "already exists")

    async def _make(self, purpose: str, policy_called: str) -> None:
        token = {
            "SecretID": self._secrets.token(purpose),
            "Description": purpose,
            "Policies": [{"Name": policy_called}],
        }
        await self._insist("acl/token", token, "already in use")

    async def _insist(self, path: str, document: Mapping[str, Any], done: str) -> None:
        """Write until it is written: servers that have only just found each other refuse in several ways."""
        last = ""

        async def is_written() -> bool:
            nonlocal last
            try:
                await self.ask("PUT", path, json=document)
            except LabError as exc:
                last = str(exc)
                return done in last
            return True

        if not await eventually(is_written, deadline_s=_FORMS_S):
            raise LabError(last)

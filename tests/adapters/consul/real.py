"""The lab's Consul server with the face that the contract suite also knows from the fake."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp

from cluster.servers.consul import ConsulServer, consul_server


class RealConsul:
    """One server; its state survives :meth:`kill`."""

    def __init__(self, server: ConsulServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """The address for a client."""
        return self._server.address

    @property
    def management_token(self) -> str:
        """A token that may do everything; empty without ACLs."""
        return self._server.token or ""

    async def start(self) -> None:
        """Start again after :meth:`kill`."""
        await self._server.restart()

    async def kill(self) -> None:
        """Die with all connections."""
        self._server.kill()

    async def freeze(self) -> None:
        """Stop answering, with connections open: SIGSTOP."""
        self._server.freeze()

    async def thaw(self) -> None:
        """Go on."""
        self._server.thaw()

    async def snapshot(self) -> bytes:
        """Save the store."""
        return await self._call("GET", "/v1/snapshot")

    async def restore(self, saved: bytes) -> None:
        """Load a saved store."""
        await self._call("PUT", "/v1/snapshot", saved)

    async def grant(self, rules: Mapping[str, str]) -> str:
        """Make a token; *rules*: key, prefix with a final ``/``, or ``service NAME``, to ``read`` or ``write``."""
        return await self._server.create_token(
            "\n".join(f'{_resource(rule)} {{ policy = "{right}" }}' for rule, right in rules.items())
        )

    async def revoke(self, token: str) -> None:
        """Delete a token."""
        accessor = json.loads(await self._call("GET", "/v1/acl/token/self", token=token))["AccessorID"]
        await self._call("DELETE", f"/v1/acl/token/{accessor}")

    async def _call(self, method: str, path: str, body: bytes | None = None, *, token: str = "") -> bytes:
        headers = {"X-Consul-Token": token or self.management_token}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), raise_for_status=True) as session,
            session.request(method, self.url + path, data=body, headers=headers) as response,
        ):
            return await response.read()


def _resource(rule: str) -> str:
    if rule.startswith("service "):
        # Consul shows an instance only to those who may also read its host.
        return f'node_prefix "" {{ policy = "read" }}\nservice "{rule.removeprefix("service ")}"'
    return f'{"key_prefix" if rule.endswith("/") else "key"} "{rule}"'


@asynccontextmanager
async def real_running(*, acl: bool = False) -> AsyncIterator[RealConsul]:
    """Run a real server until the block ends."""
    async with consul_server(acl=acl) as server:
        yield RealConsul(server)

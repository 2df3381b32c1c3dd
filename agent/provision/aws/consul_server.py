"""What a boot wants of the local Consul server, which has just started: it asks again until it gets it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from agent.adapters.consul import acl, servers
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import TokenSource
from agent.core.model.errors import ConsulUnavailableError, PermanentError, TransientError

T = TypeVar("T")
ASK_EVERY_S = 2.0
WRITE_DEADLINE_S = 60.0


@dataclass(slots=True)
class ConsulServer:
    """One server, with the management token once there is one."""

    address: str = "http://127.0.0.1:8500"
    token: str = ""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic

    def connect(self) -> ConsulClient:
        """Return a client with the token of now."""
        return ConsulClient(self.address, token=TokenSource(self.token))

    async def wait_for_leader(self, deadline_s: float) -> None:
        """
        Wait until the servers have elected one.

        Raises:
            ConsulUnavailableError: they have not, in time.
        """
        await self._until(servers.has_leader, deadline_s, "Consul has no leader")

    async def bootstrap(self, secret: str) -> str | None:
        """
        Make *secret* the management token, as :func:`agent.adapters.consul.acl.bootstrap` does.

        Raises:
            ConsulForbiddenError: Consul still refuses after a minute.
            ConsulUnavailableError: Consul still does not answer after a minute.
        """
        return await self._insist(lambda client: acl.bootstrap(client, secret))

    async def wait_to_be_known(self, find_token: Callable[[], str], deadline_s: float) -> None:
        """
        Find a token again and again until Consul knows it; it is `token` from then on.

        Raises:
            ConsulForbiddenError: Consul knows none of them in time.
            ConsulUnavailableError: Consul does not answer in time.
        """

        def choose() -> None:
            self.token = find_token()

        await self._insist(acl.check_token, deadline_s, first=choose)

    async def create_policy(self, name: str, rules: str) -> None:
        """
        Create a policy, unless there is one of this name.

        Raises:
            ConsulForbiddenError: Consul still refuses after a minute.
            ConsulUnavailableError: Consul still does not answer after a minute.
        """
        await self._insist(lambda client: acl.create_policy(client, acl.Policy(name, "", rules)))

    async def create_token(self, secret: str, description: str, *policies: str) -> None:
        """
        Make *secret* a token with *policies*, unless it is one.

        Raises:
            ConsulForbiddenError: Consul still refuses after a minute.
            ConsulUnavailableError: Consul still does not answer after a minute.
        """
        await self._insist(lambda client: acl.create_token(client, acl.Token(secret, description, policies)))

    async def put_first(self, key: str, value: str) -> bool:
        """
        Set a key that is not there; return whether it was set.

        Raises:
            ConsulForbiddenError: the token may not write it.
            ConsulUnavailableError: no usable answer.
        """
        async with self.connect() as client:
            return await client.put(key, value.encode(), cas=0)

    async def wait_to_vote(self, node: str, deadline_s: float) -> None:
        """
        Wait until the server on *node* is a voter.

        Raises:
            ConsulUnavailableError: it is not, in time.
        """
        await self._until(lambda client: servers.is_voter(client, node), deadline_s, f"Consul: {node} is no voter")

    async def leave(self) -> None:
        """
        Let this server leave the others, and give its vote back.

        Raises:
            ConsulForbiddenError: the token may not do this.
            ConsulUnavailableError: no usable answer.
        """
        async with self.connect() as client:
            await servers.leave(client)

    async def _insist(
        self,
        ask: Callable[[ConsulClient], Awaitable[T]],
        deadline_s: float = WRITE_DEADLINE_S,
        first: Callable[[], None] = lambda: None,
    ) -> T:
        """Ask until it is answered: servers that have just found each other refuse in several ways."""
        until = self.clock() + deadline_s
        while True:
            first()
            try:
                async with self.connect() as client:
                    return await ask(client)
            except (PermanentError, TransientError):
                if self.clock() >= until:
                    raise
            await self.sleep(ASK_EVERY_S)

    async def _until(self, is_so: Callable[[ConsulClient], Awaitable[bool]], deadline_s: float, otherwise: str) -> None:
        """Ask until the answer is yes."""

        async def ask(client: ConsulClient) -> None:
            if not await is_so(client):
                raise ConsulUnavailableError(f"{otherwise} after {deadline_s:.0f} s")

        await self._insist(ask, deadline_s)

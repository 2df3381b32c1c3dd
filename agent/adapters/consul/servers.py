"""A Consul server and its peers: whether they have a leader, whether a server votes, and how it leaves them."""

from pydantic import BaseModel, Field, TypeAdapter

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import Request
from agent.adapters.consul.wire import decode

LEAVE_DEADLINE_S = 30.0
"""Consul answers when it has left: after 8 s on a quiet day."""


class _Peer(BaseModel):
    node: str = Field(alias="Node")
    votes: bool = Field(alias="Voter")


class _Peers(BaseModel):
    servers: tuple[_Peer, ...] = Field(alias="Servers")


_LEADER = TypeAdapter(str)
_PEERS = TypeAdapter(_Peers)


async def has_leader(client: ConsulClient) -> bool:
    """
    Return whether the servers have elected one; needs no token.

    Raises:
        ConsulUnavailableError: no usable answer.
    """
    return bool(decode(client.name, _LEADER, await client.http.send(Request("GET", "/v1/status/leader"))))


async def is_voter(client: ConsulClient, node: str) -> bool:
    """
    Return whether the server on *node* has a vote; needs ``operator:read``.

    Raises:
        ConsulForbiddenError: the token may not ask this.
        ConsulUnavailableError: no usable answer, or no leader.
    """
    reply = await client.http.send(Request("GET", "/v1/operator/raft/configuration"))
    return any(peer.node == node and peer.votes for peer in decode(client.name, _PEERS, reply).servers)


async def leave(client: ConsulClient) -> None:
    """
    Let this agent leave the others for good; a server gives its vote back. Needs ``agent:write``.

    Raises:
        ConsulForbiddenError: the token may not do this.
        ConsulUnavailableError: no usable answer; whether it leaves is unknown.
    """
    await client.http.send(Request("PUT", "/v1/agent/leave", deadline_s=LEAVE_DEADLINE_S))

"""
Consul sessions: what a coordinator's lock hangs on. Locking itself is a transaction (``lock``, ``check-session``).

A session that is never renewed lives up to twice its TTL.
"""

import json
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from pydantic import BaseModel, Field, TypeAdapter

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import Request
from agent.adapters.consul.wire import decode
from agent.core.model.errors import PermanentError


class SessionGoneError(PermanentError):
    """The session expired or was destroyed: all its locks are free; create a new one."""


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """How a session is made; it also dies with its host's ``serfHealth`` check, in about 6 s."""

    name: str
    ttl_s: int = 15
    """10 to 86400."""
    lock_delay_s: int = 0
    """0 is safe only where every write is fenced by ``check-session`` and ``cas``."""


class _Created(BaseModel):
    id: str = Field(alias="ID")


_CREATED = TypeAdapter(_Created)


async def create_session(client: ConsulClient, spec: SessionSpec, *, deadline_s: float = 5.0) -> str:
    """
    Create a session whose locks are released, not deleted, when it ends; return its id.

    Raises:
        ConsulForbiddenError: the token may not write sessions of this host.
        ConsulUnavailableError: no usable answer; a session may exist and will expire.
    """
    body = {
        "Name": spec.name,
        "TTL": f"{spec.ttl_s}s",
        "LockDelay": f"{spec.lock_delay_s}s",
        "Behavior": "release",
    }
    request = Request("PUT", "/v1/session/create", body=json.dumps(body).encode(), deadline_s=deadline_s)
    return decode(client.name, _CREATED, await client.http.send(request)).id


async def renew_session(client: ConsulClient, session: str, *, deadline_s: float = 5.0) -> None:
    """
    Restart the session's TTL.

    Raises:
        SessionGoneError: it does not live any more.
        ConsulUnavailableError: no usable answer; count the TTL from the start of the last renewal that succeeded.
    """
    path = f"/v1/session/renew/{quote(session, safe='')}"
    accept = frozenset({HTTPStatus.OK, HTTPStatus.NOT_FOUND})
    reply = await client.http.send(Request("PUT", path, accept=accept, deadline_s=deadline_s))
    if reply.status == HTTPStatus.NOT_FOUND:
        raise SessionGoneError(f"{client.name}: session {session} is gone")


async def destroy_session(client: ConsulClient, session: str, *, deadline_s: float = 5.0) -> None:
    """End the session and release its locks. Idempotent."""
    await client.http.send(Request("PUT", f"/v1/session/destroy/{quote(session, safe='')}", deadline_s=deadline_s))

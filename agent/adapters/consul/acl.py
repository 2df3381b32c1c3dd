"""
Consul's ACLs: the management token, policies and tokens; all but the first step needs ``acl:write``.

:func:`write_policy` corrects a policy; the ``create_`` functions leave alone what is there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from urllib.parse import quote

from pydantic import BaseModel, Field, TypeAdapter

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import Reply, Request
from agent.adapters.consul.wire import decode
from agent.core.model.errors import PermanentError, TransientError


class AclDisabledError(PermanentError):
    """This Consul runs without ACLs."""


class Written(StrEnum):
    """What became of a policy."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules under a name."""

    name: str
    description: str
    rules: str


@dataclass(frozen=True, slots=True)
class Token:
    """A secret whose value was chosen before Consul knew it, and the policies it has."""

    secret: str = field(repr=False)
    description: str
    policies: tuple[str, ...]


class _Head(BaseModel):
    id: str = Field(alias="ID")
    name: str = Field(alias="Name")


class _Whole(_Head):
    rules: str = Field(alias="Rules", default="")


class _Bootstrapped(BaseModel):
    secret: str = Field(alias="SecretID")


_BOOTSTRAPPED = TypeAdapter(_Bootstrapped)
_HEADS = TypeAdapter(list[_Head])
_WHOLE = TypeAdapter(_Whole)
_EXISTS = ("already exists", "already in use", "no longer allowed")
"""What Consul says of a policy, a token and a management token that are there; the status differs between versions."""


async def write_policy(client: ConsulClient, policy: Policy) -> Written:
    """
    Create *policy*, or give the one of that name its rules. Idempotent.

    Raises:
        AclDisabledError: Consul runs without ACLs.
        ConsulForbiddenError: the token lacks ``acl:write``.
        ConsulUnavailableError: no usable answer.
    """
    body = {"Name": policy.name, "Description": policy.description, "Rules": policy.rules}
    known = next((each for each in await _policies(client) if each.name == policy.name), None)
    if known is None:
        await client.http.send(Request("PUT", "/v1/acl/policy", body=json.dumps(body).encode()))
        return Written.CREATED
    path = f"/v1/acl/policy/{quote(known.id, safe='')}"
    if decode(client.name, _WHOLE, await client.http.send(Request("GET", path))).rules == policy.rules:
        return Written.UNCHANGED
    await client.http.send(Request("PUT", path, body=json.dumps(body | {"ID": known.id}).encode()))
    return Written.CHANGED


async def bootstrap(client: ConsulClient, secret: str) -> str | None:
    """
    Make *secret* the management token; return the token that Consul made of it, None where there is one already.

    Consul takes ours since 1.11; before, it chooses one itself. Needs no token.

    Raises:
        ConsulUnavailableError: no usable answer, or no leader; it may have been made.
    """
    reply = await _create(client, "/v1/acl/bootstrap", {"BootstrapSecret": secret})
    return None if reply is None else decode(client.name, _BOOTSTRAPPED, reply).secret


async def create_policy(client: ConsulClient, policy: Policy) -> None:
    """
    Create *policy*, unless there is one of its name, whatever its rules. Idempotent.

    Raises:
        ConsulForbiddenError: the token lacks ``acl:write``.
        ConsulUnavailableError: no usable answer, or no leader.
    """
    body = {"Name": policy.name, "Description": policy.description, "Rules": policy.rules}
    await _create(client, "/v1/acl/policy", body)


async def create_token(client: ConsulClient, token: Token) -> None:
    """
    Make Consul know *token*, unless it does, with whatever policies. Idempotent.

    Raises:
        ConsulForbiddenError: the client's own token lacks ``acl:write``.
        ConsulUnavailableError: no usable answer, or no leader.
    """
    policies = [{"Name": name} for name in token.policies]
    body = {"SecretID": token.secret, "Description": token.description, "Policies": policies}
    await _create(client, "/v1/acl/token", body)


async def check_token(client: ConsulClient) -> None:
    """
    Return if Consul knows the client's token.

    Raises:
        ConsulForbiddenError: it does not.
        ConsulUnavailableError: no usable answer.
    """
    await client.http.send(Request("GET", "/v1/acl/token/self"))


async def _create(client: ConsulClient, path: str, body: Mapping[str, object]) -> Reply | None:
    """Return None where it exists already."""
    try:
        return await client.http.send(Request("PUT", path, body=json.dumps(body).encode()))
    except (PermanentError, TransientError) as exc:
        if any(text in str(exc).lower() for text in _EXISTS):
            return None
        raise


async def _policies(client: ConsulClient) -> list[_Head]:
    accept = frozenset({HTTPStatus.OK, HTTPStatus.UNAUTHORIZED})
    reply = await client.http.send(Request("GET", "/v1/acl/policies", accept=accept))
    if reply.status == HTTPStatus.UNAUTHORIZED:
        # Consul's word for "ACL support disabled"; a missing right is 403.
        raise AclDisabledError(f"{client.name} runs without ACLs: everybody who reaches it may deploy")
    return decode(client.name, _HEADS, reply)

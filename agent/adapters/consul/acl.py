"""ACL policies of Consul: list, read, create and change them; needs ``acl:write``."""

import json
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from urllib.parse import quote

from pydantic import BaseModel, Field, TypeAdapter

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import Request
from agent.adapters.consul.wire import decode
from agent.core.model.errors import PermanentError


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


class _Head(BaseModel):
    id: str = Field(alias="ID")
    name: str = Field(alias="Name")


class _Whole(_Head):
    rules: str = Field(alias="Rules", default="")


_HEADS = TypeAdapter(list[_Head])
_WHOLE = TypeAdapter(_Whole)


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


async def _policies(client: ConsulClient) -> list[_Head]:
    accept = frozenset({HTTPStatus.OK, HTTPStatus.UNAUTHORIZED})
    reply = await client.http.send(Request("GET", "/v1/acl/policies", accept=accept))
    if reply.status == HTTPStatus.UNAUTHORIZED:
        # Consul's word for "ACL support disabled"; a missing right is 403.
        raise AclDisabledError(f"{client.name} runs without ACLs: everybody who reaches it may deploy")
    return decode(client.name, _HEADS, reply)

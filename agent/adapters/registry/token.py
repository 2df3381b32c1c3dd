"""How a registry wants to be asked: Basic, or a Bearer token of its token server (the distribution project's spec)."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

import aiohttp
from pydantic import ValidationError

from agent.adapters.registry.body import read_body
from agent.core.model.documents import TolerantDocument
from agent.core.model.errors import ImagePullError, ImageRefusedError
from agent.core.model.names import printable

_PARAMETER = re.compile(r'([a-zA-Z]+)="([^"]*)"')
CLIENT_ID = "tidegate"
TOKEN_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """A ``WWW-Authenticate`` header."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""

    @classmethod
    def read(cls, header: str, path: str) -> Self:
        """Read the header; where it names no scope, to pull *path* is asked for."""
        scheme, _, rest = header.partition(" ")
        given = {name.lower(): value for name, value in _PARAMETER.findall(rest)}
        scope = given.get("scope") or f"repository:{path}:pull"
        return cls(scheme.lower(), given.get("realm", ""), given.get("service", ""), scope)


class _Token(TolerantDocument):
    token: str = ""
    access_token: str = ""


async def authorization(
    session: aiohttp.ClientSession, challenge: Challenge, credentials: Mapping[str, str] | None
) -> str | None:
    """
    Return the ``Authorization`` header that answers *challenge*; None where there is nothing to answer with.

    Raises:
        ImageRefusedError: the token server refuses the login, or the challenge is of an unknown kind.
        ImagePullError: the token server is away.
    """
    match challenge.scheme:
        case "basic":
            return _basic(credentials) if credentials is not None and "username" in credentials else None
        case "bearer":
            return f"Bearer {await _bearer(session, challenge, credentials or {})}"
        case _:
            raise ImageRefusedError(f"the registry wants a login of an unknown kind: {printable(challenge.scheme)}")


def _basic(credentials: Mapping[str, str]) -> str:
    pair = f"{credentials['username']}:{credentials['password']}"
    return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"


async def _bearer(session: aiohttp.ClientSession, challenge: Challenge, credentials: Mapping[str, str]) -> str:
    asked = {"service": challenge.service, "scope": challenge.scope}
    if identity := credentials.get("identitytoken"):
        form = asked | {"grant_type": "refresh_token", "refresh_token": identity, "client_id": CLIENT_ID}
        request = session.post(challenge.realm, data=form, allow_redirects=False)
    else:
        headers = {"Authorization": _basic(credentials)} if "username" in credentials else {}
        request = session.get(challenge.realm, params=asked, headers=headers, allow_redirects=False)
    async with request as reply:
        body = await read_body(reply, TOKEN_MAX_BYTES)
        if reply.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST}:
            raise ImageRefusedError(f"the token server {challenge.realm} refuses the login: {reply.status}")
        if reply.status != HTTPStatus.OK:
            raise ImagePullError(f"the token server {challenge.realm} answered {reply.status}")
    if body is None:
        raise ImagePullError(f"the token server {challenge.realm} answered with more than {TOKEN_MAX_BYTES} bytes")
    try:
        token = _Token.model_validate_json(body)
    except ValidationError:
        token = _Token()
    if not (token.token or token.access_token):
        # Not chained: the answer may hold a secret.
        raise ImagePullError(f"the token server {challenge.realm} answered without a token")
    return token.token or token.access_token

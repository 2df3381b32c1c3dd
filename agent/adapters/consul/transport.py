"""
Consul's HTTP API as a transport: address, token, deadlines, bounded bodies, and errors in an operator's words.

Knows no endpoint. A request is sent exactly once: an answer that was lost means "outcome unknown" to the caller,
who re-reads and compares.
"""

import asyncio
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from agent.core.model.durations import format_duration
from agent.core.model.errors import ConsulForbiddenError, ConsulUnavailableError, PermanentError
from agent.core.model.names import printable

CONNECT_TIMEOUT_S = 2.0
DEADLINE_S = 10.0
"""For everything that does not block on purpose."""
BODY_MAX_BYTES = 8 * 1024 * 1024
_TOKEN = re.compile(r"[!-~]{1,512}")
_OK = frozenset({HTTPStatus.OK})


def tls_context(
    address: str, ca_file: Path | None, cert_file: Path | None, key_file: Path | None
) -> ssl.SSLContext | None:
    """
    Return what an ``https://`` address is spoken to with; None for any other.

    Args:
        address: with its scheme.
        ca_file: authority that signed Consul's certificate; None: those of the system.
        cert_file: the client's certificate, and *key_file* its key; None: without one.
        key_file: see *cert_file*; None: the key stands in *cert_file*.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: a file holds no certificate or key.
    """
    if not address.startswith("https://"):
        return None
    context = ssl.create_default_context(cafile=ca_file)
    if cert_file is not None:
        context.load_cert_chain(cert_file, key_file)
    return context


@dataclass(frozen=True, slots=True)
class Address:
    """Where the local agent's HTTP API listens."""

    text: str
    """As the operator wrote it; for messages."""
    url: str
    socket_path: str | None = None


def parse_address(text: str) -> Address:
    """
    Read an address.

    Raises:
        ValueError: not ``http://host[:port]``, ``https://host[:port]`` or ``unix:///path``.
    """
    parts = urlsplit(text)
    if parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1 and not parts.query:
        return Address(text, "http://localhost", parts.path)
    named = parts.hostname and parts.port != 0 and "@" not in parts.netloc  # .port raises ValueError itself
    if parts.scheme in {"http", "https"} and named and parts.path in {"", "/"} and not (parts.query or parts.fragment):
        return Address(text.rstrip("/"), f"{parts.scheme}://{parts.netloc}")
    msg = f"{printable(text)} is no Consul address: write http://host:port, https://host:port or unix:///path"
    raise ValueError(msg)


class TokenSource:
    """An ACL token given by value or by file; the file is read again whenever it changed."""

    def __init__(self, value: str = "", *, file: Path | None = None) -> None:
        self._token = value
        self._file = file
        self._seen: tuple[int, int, int] | None = None

    def current(self) -> str:
        """
        Return the token; empty means anonymous.

        A file that is missing for a moment (being rotated) leaves the last token in use.

        Raises:
            ConsulForbiddenError: the file was never readable, or the token holds unprintable characters.
        """
        if self._file is not None:
            try:
                stat = self._file.stat()
                seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
                if seen != self._seen:
                    self._token = self._file.read_text(encoding="ascii", errors="replace").strip() or self._token
                    self._seen = seen
            except OSError as exc:
                if self._seen is None:
                    raise ConsulForbiddenError(f"token file {self._file}: {exc.strerror}") from exc
        if self._token and not _TOKEN.fullmatch(self._token):
            raise ConsulForbiddenError("the Consul token holds spaces or unprintable characters")
        return self._token

    def refused(self, token: str) -> bool:
        """Note that *token* was refused; return whether there is another one to try."""
        self._seen = self._seen and (0, 0, 0)
        return self.current() != token


@dataclass(frozen=True, slots=True)
class Request:
    """One request; *accept* lists the statuses that are answers and not errors."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    accept: frozenset[int] = _OK
    deadline_s: float = DEADLINE_S


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with an accepted status, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Sender(Protocol):
    """What a client needs of its connection to Consul; :class:`Transport` is it, the simulation has another."""

    @property
    def name(self) -> str:
        """How messages call this Consul."""

    async def send(self, request: Request) -> Reply:
        """Send *request* once; errors as :meth:`Transport.send`."""

    async def close(self) -> None:
        """Close all connections. Idempotent."""


class Transport:
    """Sends requests to one Consul agent. Connections are not limited: blocked queries must not starve writes."""

    def __init__(self, address: str, token: TokenSource, tls: ssl.SSLContext | None = None) -> None:
        self._address = parse_address(address)
        self._token = token
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """How messages call this Consul."""
        return f"Consul at {self._address.text}"

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, request: Request) -> Reply:
        """
        Send *request* once; a second time only with another token after a 403.

        Raises:
            ConsulForbiddenError: 403, or no token to be had.
            ConsulUnavailableError: no connection, no answer in time, 429 or 5xx. The outcome of a write is unknown.
            PermanentError: any other status that is not accepted.
        """
        token = self._token.current()
        reply = await self._send(request, token)
        if reply.status == HTTPStatus.FORBIDDEN and self._token.refused(token):
            reply = await self._send(request, self._token.current())
        if reply.status in request.accept:
            return reply
        said = f"{self.name}: {reply.status} {printable(reply.body[:400].decode(errors='replace').strip(), 200)}"
        if reply.status == HTTPStatus.FORBIDDEN:
            raise ConsulForbiddenError(said)
        if reply.status == HTTPStatus.TOO_MANY_REQUESTS or reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ConsulUnavailableError(said)
        raise PermanentError(said)

    async def _send(self, request: Request, token: str) -> Reply:
        try:
            async with (
                asyncio.timeout(request.deadline_s),
                self._open().request(
                    request.method,
                    self._address.url + request.path,
                    params=request.params,
                    data=request.body,
                    headers={"X-Consul-Token": token} if token else {},
                    allow_redirects=False,  # a redirect would carry the token elsewhere
                ) as response,
            ):
                return Reply(response.status, response.headers, await self._read(response))
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise ConsulUnavailableError(f"{self.name}: {_error_text(exc, request.deadline_s)}") from exc

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(64 * 1024):
            body += chunk
            if len(body) > BODY_MAX_BYTES:
                raise ConsulUnavailableError(f"{self.name}: answer is larger than {BODY_MAX_BYTES} bytes")
        return bytes(body)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            path = self._address.socket_path
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path, limit=0)
                if path
                else aiohttp.TCPConnector(limit=0, ssl=self._tls or True),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "tidegate"},
            )
            # aiohttp would silently send a PUT twice when the connection breaks: a `cas` that won would then be
            # told as lost. There is no public switch; the contract suite holds this.
            self._session._retry_connection = False  # noqa: SLF001
        return self._session


def _error_text(exc: Exception, deadline_s: float) -> str:
    match exc:
        case aiohttp.ClientConnectorDNSError():
            text = "cannot resolve its name"
        case aiohttp.ClientSSLError():
            text = f"TLS failed: {printable(str(exc), 200)}"
        case aiohttp.ConnectionTimeoutError():
            text = f"no connection within {format_duration(CONNECT_TIMEOUT_S)}"
        case TimeoutError():
            text = f"no answer within {format_duration(deadline_s)}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            text = "connection closed before the answer was complete"
        case OSError(errno=int(number)) if number > 0:
            text = os.strerror(number).lower()
        case aiohttp.ClientConnectorError():
            text = "connection closed while it was made"
        case _:
            text = printable(f"{type(exc).__name__}: {exc}", 200)
    return text

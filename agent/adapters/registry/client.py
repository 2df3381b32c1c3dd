"""
What an image reference means now: the digest of its top manifest, asked of the registry itself (HTTP API v2).

Needs no Docker: coordinators have none. Credentials come from where Docker keeps them, read anew at each question.
Plain HTTP is spoken to loopback registries only, as Docker does, and to those the settings name. Authorities beyond the
system's are those that Docker trusts for the registry: ``/etc/docker/certs.d/<host[:port]>/*.crt``.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from agent.adapters.registry.body import read_body
from agent.adapters.registry.credentials import registry_auth
from agent.adapters.registry.reference import DOCKER_HUB, Repository, pinned_digest, repository
from agent.adapters.registry.token import Challenge, authorization
from agent.core.model.errors import ImagePullError, ImageRefusedError
from agent.core.model.names import Digest, ImageReference, parse_digest, printable

CERTIFICATES = Path("/etc/docker/certs.d")
DEADLINE_S = 20.0
MANIFEST_MAX_BYTES = 4 * 1024 * 1024
_HUB_HOST = "registry-1.docker.io"
_MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_NO_HEAD = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})
_NO_RIGHT = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Registries:
    """Resolves references; one connection per question, as they are rare."""

    def __init__(self, config: Path, insecure: tuple[str, ...] = (), certificates: Path = CERTIFICATES) -> None:
        """
        Remember where credentials lie.

        Args:
            config: Docker's configuration file.
            insecure: registries (``host[:port]``) that speak plain HTTP.
            certificates: a directory for each registry (``host[:port]``) with an authority of its own.
        """
        self._config = config
        self._certificates = certificates
        self._insecure = frozenset(insecure)

    async def digest(self, reference: ImageReference) -> Digest:
        """
        Return the digest *reference* means; one that is pinned already is not asked for.

        Raises:
            ImageRefusedError: no such image, or no right to it; asking again would not help.
            ImagePullError: the registry is away, busy, or did not answer in time.
        """
        if (known := pinned_digest(reference)) is not None:
            return known
        where = repository(reference)
        tag = reference.rpartition("/")[2].partition(":")[2] or "latest"
        try:
            trust = aiohttp.TCPConnector(ssl=self._trust(_host_of(where)))
            async with (
                asyncio.timeout(DEADLINE_S),
                aiohttp.ClientSession(connector=trust, auto_decompress=False) as session,
            ):
                answer = await self._manifest(session, where, tag, "HEAD")
                is_bare = answer.status == HTTPStatus.OK and "Docker-Content-Digest" not in answer.headers
                if is_bare or answer.status in _NO_HEAD:
                    answer = await self._manifest(session, where, tag, "GET")
        except TimeoutError as exc:
            raise ImagePullError(f"registry {where.registry}: no answer within {DEADLINE_S:g}s") from exc
        except aiohttp.ClientConnectorCertificateError as exc:
            home = self._certificates / _host_of(where)
            why = f"its certificate is not trusted; {home}/*.crt may name its authority"
            raise ImagePullError(f"registry {where.registry}: {why}: {printable(str(exc.certificate_error))}") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise ImagePullError(f"registry {where.registry}: {printable(str(exc) or type(exc).__name__)}") from exc
        return _digest_of(reference, where, answer)

    def url_of(self, where: Repository) -> str:
        """Return the base of a registry's API."""
        host = _host_of(where)
        return f"{'http' if self._is_plain(host) else 'https'}://{host}/v2"

    def _may_be_told(self, realm: str) -> bool:
        """Whether a login may go there: not in the clear because a registry says so."""
        parts = urlsplit(realm)
        is_plain = parts.scheme == "http" and self._is_plain(parts.netloc)
        return bool(parts.netloc) and "@" not in parts.netloc and (parts.scheme == "https" or is_plain)

    def _is_plain(self, host: str) -> bool:
        return host in self._insecure or (_is_loopback(host) and not self._authorities(host))

    def _authorities(self, host: str) -> list[Path]:
        return sorted((self._certificates / host).glob("*.crt"))

    def _trust(self, host: str) -> ssl.SSLContext | bool:
        if not (authorities := self._authorities(host)):
            return True
        context = ssl.create_default_context()
        for authority in authorities:
            try:
                context.load_verify_locations(authority)
            except (OSError, ValueError) as exc:
                raise ImagePullError(f"registry {host}: its authority in {authority}: {exc}") from exc
        return context

    async def _manifest(self, session: aiohttp.ClientSession, where: Repository, tag: str, method: str) -> _Answer:
        url = f"{self.url_of(where)}/{where.path}/manifests/{tag}"
        answer = await _ask(session, method, url, {})
        if answer.status != HTTPStatus.UNAUTHORIZED:
            return answer
        challenge = Challenge.read(answer.headers.get("WWW-Authenticate", ""), where.path)
        if challenge.scheme == "bearer" and not self._may_be_told(challenge.realm):
            raise ImageRefusedError(f"registry {where.registry} names {printable(challenge.realm)} as token server")
        credentials = await registry_auth(self._config, where.registry)
        header = await authorization(session, challenge, credentials)
        return answer if header is None else await _ask(session, method, url, {"Authorization": header})


async def _ask(session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str]) -> _Answer:
    async with session.request(
        method, url, headers={"Accept": ", ".join(_MANIFEST_TYPES), **headers}, allow_redirects=False
    ) as reply:
        body = await read_body(reply, MANIFEST_MAX_BYTES)
        if body is None:
            raise ImageRefusedError(f"the manifest at {url} is larger than {MANIFEST_MAX_BYTES} bytes")
        return _Answer(reply.status, reply.headers, body)


def _digest_of(reference: ImageReference, where: Repository, answer: _Answer) -> Digest:
    if answer.status == HTTPStatus.OK:
        told = answer.headers.get("Docker-Content-Digest")
        try:
            return parse_digest(told or f"sha256:{hashlib.sha256(answer.body).hexdigest()}")
        except ValueError as exc:
            raise ImagePullError(f"registry {where.registry}: {exc}") from exc
    if answer.status == HTTPStatus.NOT_FOUND:
        raise ImageRefusedError(f"registry {where.registry} has no {reference}")
    if answer.status in _NO_RIGHT:
        raise ImageRefusedError(
            f"registry {where.registry} refuses {reference}: {answer.status}: no login, or the login may not read it"
        )
    raise ImagePullError(f"registry {where.registry} answered {answer.status} for {reference}")


def _host_of(where: Repository) -> str:
    return _HUB_HOST if where.registry == DOCKER_HUB else where.registry


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    if name == "localhost":
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False

"""What an image reference means, asked of a real registry with and without a login."""

import asyncio
import contextlib
import json
import shutil
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from agent.adapters.registry.client import Registries
from agent.adapters.registry.reference import Repository
from agent.core.model.errors import ImagePullError, ImageRefusedError
from agent.core.model.names import Digest, ImageReference, parse_reference
from cluster.servers.certificates import Certificates, make_certificates
from cluster.servers.registry import Login, Registry, registry
from tests.adapters.registry.rig import INDEX, MANIFEST, basic, config_of, digest_of, document
from tests.raw_server import raw_server

LOGIN = Login("ci", "pass:word")
real = pytest.mark.real
on_the_shared_registry = pytest.mark.asyncio(loop_scope="session")


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image in a registry: an index over one manifest, which a client of before 2017 would be given instead."""

    reference: ImageReference
    index: Digest
    manifest: Digest


async def push(server: Registry) -> Pushed:
    """Put a small image there, as a client of the registry's own API would."""
    name, headers = f"app-{uuid.uuid4().hex[:8]}", {}
    if server.login is not None:
        headers["Authorization"] = f"Basic {basic(server.login.user, server.login.password)['auth']}"
    async with aiohttp.ClientSession(f"http://{server.address}", headers=headers, raise_for_status=True) as session:
        config = await _blob(session, name, json.dumps({"architecture": "amd64", "os": "linux"}).encode())
        manifest = document(MANIFEST, config=config, layers=[])
        inner = await _put(session, f"/v2/{name}/manifests/{digest_of(manifest)}", manifest)
        entry = {"mediaType": MANIFEST, "digest": inner, "size": len(manifest)}
        index = document(INDEX, manifests=[entry])
        outer = await _put(session, f"/v2/{name}/manifests/1.0", index)
    return Pushed(parse_reference(f"{server.address}/{name}:1.0"), Digest(outer), Digest(inner))


async def _blob(session: aiohttp.ClientSession, name: str, body: bytes) -> dict[str, object]:
    async with session.post(f"/v2/{name}/blobs/uploads/") as reply:
        where = URL(reply.headers["Location"])
    digest = digest_of(body)
    headers = {"Content-Type": "application/octet-stream"}
    async with session.put(where.update_query(digest=digest), data=body, headers=headers):
        return {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(body)}


async def _put(session: aiohttp.ClientSession, path: str, document: bytes) -> str:
    headers = {"Content-Type": json.loads(document)["mediaType"]}
    async with session.put(path, data=document, headers=headers):
        return digest_of(document)


# A real registry


@real
@on_the_shared_registry
async def test_a_tag_means_the_top_manifest(registry: Registry, tmp_path: Path) -> None:
    """The index, not what a platform gets of it: hosts of several kinds run the same release."""
    image = await push(registry)
    assert await Registries(tmp_path / "none.json").digest(image.reference) == image.index


@real
@on_the_shared_registry
async def test_what_the_registry_does_not_have_is_refused(registry: Registry, tmp_path: Path) -> None:
    """An unknown tag, or name, by itself: asking again would not help."""
    image = await push(registry)
    for unknown in (f"{image.reference}-typo", f"{registry.address}/nothing:1"):
        with pytest.raises(ImageRefusedError, match="has no"):
            await Registries(tmp_path / "none.json").digest(parse_reference(unknown))


@real
@on_the_shared_registry
async def test_a_tag_that_was_pushed_again_means_something_else(registry: Registry, tmp_path: Path) -> None:
    """Nothing is kept: the registry is asked each time."""
    image = await push(registry)
    name = image.reference.partition("/")[2].partition(":")[0]
    other = document(INDEX, manifests=[])
    registries = Registries(tmp_path / "none.json")
    assert await registries.digest(image.reference) == image.index
    async with aiohttp.ClientSession(f"http://{registry.address}", raise_for_status=True) as session:
        await _put(session, f"/v2/{name}/manifests/1.0", other)
    assert await registries.digest(image.reference) == digest_of(other)


@real
@pytest.mark.slow
async def test_a_login_is_used_where_there_is_one(tmp_path: Path) -> None:
    """With it the digest; with a wrong one, or none, the registry's refusal, without the password."""
    async with registry(LOGIN) as server:
        image = await push(server)
        good = Registries(server.docker_config / "config.json")
        assert await good.digest(image.reference) == image.index
        for config in (
            tmp_path / "none.json",
            config_of(tmp_path, server.address, basic("ci", "wrong")),
            config_of(tmp_path, server.address, {"identitytoken": "not for Basic"}),
        ):
            with pytest.raises(ImageRefusedError, match="no login") as caught:
                await Registries(config).digest(image.reference)
            assert "wrong" not in str(caught.value)


@real
@pytest.mark.slow
async def test_a_registry_that_is_away_may_come_back(tmp_path: Path) -> None:
    """Refused connections pass by themselves."""
    async with registry() as server:
        image = await push(server)
        await server.stop()
        with pytest.raises(ImagePullError, match=server.address):
            await Registries(tmp_path / "none.json").digest(image.reference)
        await server.start()
        assert await Registries(tmp_path / "none.json").digest(image.reference) == image.index


@real
@on_the_shared_registry
async def test_an_authority_that_docker_trusts_for_a_registry_counts(registry: Registry, tmp_path: Path) -> None:
    """From the directory of that registry alone; without it nobody is trusted, and the login stays here."""
    image = await push(registry)
    (tmp_path / "made").mkdir()
    certificates = await make_certificates(tmp_path / "made")
    async with _behind_tls(registry, certificates) as address:
        reference = parse_reference(image.reference.replace(registry.address, address))
        trusted = tmp_path / "certs.d" / address
        trusted.mkdir(parents=True)
        shutil.copy(certificates.ca, trusted / "ca.crt")
        registries = Registries(tmp_path / "none.json", certificates=tmp_path / "certs.d")
        assert await registries.digest(reference) == image.index
        (tmp_path / "other").mkdir()
        shutil.copy((await make_certificates(tmp_path / "other")).ca, trusted / "ca.crt")
        with pytest.raises(
            ImagePullError, match=f"{address}.*not trusted.*certs.d/{address}/.*certificate verify failed"
        ):
            await registries.digest(reference)
        (trusted / "ca.crt").write_text("no certificate")
        with pytest.raises(ImagePullError, match=r"ca\.crt"):
            await registries.digest(reference)


@asynccontextmanager
async def _behind_tls(registry: Registry, certificates: Certificates) -> AsyncIterator[str]:
    """Put a relay that speaks TLS before the registry; its host and port."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", registry.port)
        await asyncio.gather(_copy(reader, outer), _copy(inner, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server, certificates.server_key)
    async with raw_server(relay, ssl=context) as port:
        yield f"127.0.0.1:{port}"


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


# What needs no server


async def test_a_pinned_reference_is_not_asked_for(tmp_path: Path) -> None:
    """It says what it means."""
    digest = f"sha256:{'a' * 64}"
    reference = parse_reference(f"registry.invalid/shop:1@{digest}")
    assert await Registries(tmp_path / "none.json").digest(reference) == digest


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("registry.example", "https://registry.example/v2"),
        ("registry.example:5000", "https://registry.example:5000/v2"),
        ("10.0.0.5:5000", "http://10.0.0.5:5000/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("127.0.0.1", "http://127.0.0.1/v2"),
        ("127.8.9.10:5000", "http://127.8.9.10:5000/v2"),
        ("localhost.example", "https://localhost.example/v2"),
        ("128.0.0.1:5000", "https://128.0.0.1:5000/v2"),
    ],
)
def test_plain_http_is_for_loopback_and_what_the_settings_name(tmp_path: Path, registry: str, url: str) -> None:
    """As Docker does; its hub has another name for its API."""
    registries = Registries(tmp_path / "none.json", ("10.0.0.5:5000",))
    assert registries.url_of(Repository(registry, "team/app")) == url

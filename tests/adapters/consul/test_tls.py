"""Consul over TLS, on a real server that asks its clients for a certificate, too."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agent.adapters.consul.kv import ConsulClient
from agent.config import ConsulSettings
from agent.core.model.errors import ConsulForbiddenError, ConsulUnavailableError, FatalError
from agent.core.model.keys import Forbidden, Known
from agent.core.model.names import parse_app
from agent.factories import make_consul
from cluster.servers.certificates import Certificates, make_certificates
from cluster.servers.consul import ConsulServer, consul_server
from tests.adapters.consul.suite import watching

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
APP = parse_app("shop")


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server in default deny behind HTTPS, and what its clients need."""

    server: ConsulServer
    certificates: Certificates

    def client(self, **changes: Any) -> ConsulClient:
        """Make a client as the agent does."""
        files = self.certificates
        given = {"ca_file": files.ca, "cert_file": files.client, "key_file": files.client_key}
        return make_consul(ConsulSettings(address=self.server.address, **(given | changes)))


@pytest_asyncio.fixture(scope="module", loop_scope="session", name="guarded")
async def _guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    certificates = await make_certificates(tmp_path_factory.mktemp("tls"))
    async with consul_server(acl=True, tls=certificates) as server:
        await server.put("shop/active/image", "shop:a")
        yield Guarded(server, certificates)


async def test_a_client_with_the_authority_and_a_certificate_reads_and_watches(guarded: Guarded) -> None:
    """A blocking query over TLS wakes like any other."""
    async with guarded.client(token=guarded.server.token) as client, watching(client, APP) as told:
        await told.until(Known)
        assert await client.put("shop/active/image", b"shop:b")
        assert "shop:b" in str((await told.until(Known, count=2)).snapshot.active)


async def test_a_server_whose_authority_is_unknown_is_not_talked_to(guarded: Guarded) -> None:
    """Without ``ca_file`` the system's authorities count; the reason says that TLS failed."""
    async with guarded.client(ca_file=None, token=guarded.server.token) as client:
        with pytest.raises(ConsulUnavailableError, match="TLS failed"):
            await client.get("shop/active/image")


async def test_a_client_without_a_certificate_is_turned_away(guarded: Guarded) -> None:
    """Where Consul asks for one (``verify_incoming_https``)."""
    async with guarded.client(cert_file=None, key_file=None, token=guarded.server.token) as client:
        with pytest.raises(ConsulUnavailableError):
            await client.get("shop/active/image")


async def test_a_token_is_read_from_its_file_again_when_it_changes(guarded: Guarded, tmp_path: Path) -> None:
    """Also by a watch that was refused: a token that is rotated needs no restart."""
    file = tmp_path / "token"
    old, new = [await guarded.server.create_token('key_prefix "shop/" { policy = "read" }') for _ in range(2)]
    file.write_text(old)
    async with guarded.client(token_file=file) as client, watching(client, APP) as told:
        await told.until(Known)
        await guarded.server.revoke(old)
        with pytest.raises(ConsulForbiddenError):
            await client.get("shop/active/image")
        await guarded.server.put("shop/active/image", "shop:c")
        await told.until(Forbidden, count=2)
        file.write_text(new)
        assert (await client.get("shop/active/image")) is not None
        await told.until(Known, count=3)


async def test_a_certificate_that_cannot_be_read_ends_the_start_with_its_name(tmp_path: Path) -> None:
    """The settings are named."""
    with pytest.raises(FatalError, match="ca_file"):
        make_consul(ConsulSettings(address="https://127.0.0.1:1", ca_file=tmp_path / "none.pem"))

"""An agent and the commands over TLS, with the token of their role, on a real Consul in default deny."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agent.adapters.consul.policies import Role, policy
from agent.core.model.names import parse_app
from cluster.servers.certificates import Certificates, make_certificates
from cluster.servers.consul import ConsulServer, consul_server
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.host import Host, Plan, host
from cluster.servers.process import eventually

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
APP = parse_app(f"fleet-{uuid.uuid4().hex[:8]}")
"""One of its own: other tests may use the same Docker daemon."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A host that runs nothing yet, beside a Consul behind HTTPS."""

    consul: ConsulServer
    certificates: Certificates
    host: Host
    token: Path
    """The file with the agent's token."""

    async def is_told(self, words: str) -> bool:
        """Say whether the host's report in Consul holds *words*."""
        return words in (await self.consul.get(f"{APP}-status/nodes/web-1") or "")


@pytest_asyncio.fixture(loop_scope="session", name="guarded")
async def _guarded(docker: DockerDaemon, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with AsyncExitStack() as stack:
        (tmp_path / "tls").mkdir()
        certificates = await make_certificates(tmp_path / "tls")
        consul = await stack.enter_async_context(consul_server(acl=True, tls=certificates))
        token = tmp_path / "token"
        token.write_text(await consul.create_token(policy(Role.NODE, APP)))
        settings: dict[str, Any] = {
            "ca_file": str(certificates.ca),
            "cert_file": str(certificates.client),
            "key_file": str(certificates.client_key),
            "token_file": str(token),
        }
        made = await stack.enter_async_context(host(Plan(APP, settings={"consul": settings}), docker, consul))
        await made.start_agent()
        yield Guarded(consul, certificates, made, token)


async def test_an_agent_works_over_tls_and_goes_on_with_a_token_that_was_rotated(guarded: Guarded) -> None:
    """It reads, reports and registers; with the new token in the file it does so without a restart."""
    assert await eventually(lambda: guarded.is_told('"is_ready":true'), deadline_s=15)
    assert {"tidegate-agent-web-1", f"{APP}-web-1"} <= set(await guarded.consul.services())
    old = guarded.token.read_text()
    guarded.token.write_text(await guarded.consul.create_token(policy(Role.NODE, APP)))
    await guarded.consul.revoke(old)
    await guarded.host.cli("leave")
    assert await eventually(lambda: guarded.is_told('"gate":"closed"'), deadline_s=15)

"""Each command over TLS with the token of a role alone, on a real Consul in default deny; no agent runs."""

import os
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from agent.adapters.consul.policies import Role, policy, policy_name
from agent.core.model.names import AppName, NodeName, parse_app
from bench.fleet_in_consul import Population, staged
from cluster.servers.certificates import Certificates, make_certificates
from cluster.servers.consul import ConsulServer, consul_server
from cluster.servers.fleet import TIDEGATE, Said, said_by
from tests.e2e.fleet.served import SERVED

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@dataclass(frozen=True, slots=True)
class Hamlet:
    """Three hosts in the catalog, behind HTTPS, and the variables of each role."""

    consul: ConsulServer
    app: AppName
    certificates: Certificates
    home: Path

    async def run(self, *arguments: str, role: Role | None, without: str = "", token: str = "") -> Said:
        """Run ``tidegate`` as *role* (None: with *token*), and *without* one of the variables."""
        secret = token if role is None else await self.consul.create_token(policy(role, self.app))
        env = {
            "CONSUL_HTTP_ADDR": self.consul.address.removeprefix("https://"),
            "CONSUL_HTTP_SSL": "true",
            "CONSUL_CACERT": str(self.certificates.ca),
            "CONSUL_CLIENT_CERT": str(self.certificates.client),
            "CONSUL_CLIENT_KEY": str(self.certificates.client_key),
            "CONSUL_HTTP_TOKEN": secret,
            "TIDEGATE_CONFIG": str(self.home / "none.toml"),
            "TIDEGATE_APP": self.app,
        }
        return await said_by(
            [TIDEGATE, *arguments],
            {**_clean(), **{name: value for name, value in env.items() if name != without and value}},
        )


def _clean() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("CONSUL_", "TIDEGATE_"))}


@pytest_asyncio.fixture(scope="module", loop_scope="session", name="hamlet")
async def _hamlet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hamlet]:
    home = tmp_path_factory.mktemp("hamlet")
    app = parse_app(f"fleet-{uuid.uuid4().hex[:8]}")
    (home / "tls").mkdir()
    certificates = await make_certificates(home / "tls")
    async with consul_server(acl=True, tls=certificates) as consul:
        nodes = [NodeName(f"web-{number}") for number in range(3)]
        people = Population(consul, app, nodes)
        await people.register()
        await people.report([staged(app, node, SERVED, None) for node in nodes])
        await consul.put(f"{app}/active/image", SERVED.image)
        yield Hamlet(consul, app, certificates, home)


async def test_an_operator_may_give_every_command_and_who_only_looks_may_look(hamlet: Hamlet) -> None:
    """What changes nothing works for both; what changes something is refused to the other, with the reason."""
    image = "registry.example/shop:b"
    begun = await hamlet.run("deploy", image, "--detach", role=Role.OPERATOR)
    assert begun.code == 0, begun
    for command in (["pause"], ["resume"], ["abort", "--detach"]):
        refused = await hamlet.run(*command, role=Role.READ_ONLY)
        assert refused.code == 1, refused
        assert "token" in refused.err, refused
        done = await hamlet.run(*command, role=Role.OPERATOR)
        assert done.code == 0, done
    for command in (["status"], ["history"], ["show", "2"], ["nodes"], ["plan", image]):
        for role in (Role.OPERATOR, Role.READ_ONLY):
            seen = await hamlet.run(*command, role=role)
            assert "may not" not in seen.out + seen.err, seen
            assert "Traceback" not in seen.err, seen


async def test_a_command_without_a_right_or_a_certificate_says_what_is_missing(hamlet: Hamlet) -> None:
    """Never a traceback."""
    anonymous = await hamlet.run("status", role=None)
    assert anonymous.code == 1
    assert "token" in anonymous.err or "403" in anonymous.err, anonymous
    for variable in ("CONSUL_CACERT", "CONSUL_CLIENT_CERT"):
        untrusted = await hamlet.run("status", role=Role.READ_ONLY, without=variable)
        assert untrusted.code == 1, untrusted
        assert "Traceback" not in untrusted.err
    assert "TLS" in (await hamlet.run("status", role=Role.READ_ONLY, without="CONSUL_CACERT")).err


async def test_only_who_manages_acls_may_create_the_policies(hamlet: Hamlet) -> None:
    """And what is created is what is shipped."""
    refused = await hamlet.run("init", hamlet.app, role=Role.OPERATOR)
    assert refused.code == 1, refused
    done = await hamlet.run("init", hamlet.app, role=None, token=hamlet.consul.token or "")
    assert done.code == 0, done
    rules = await hamlet.consul.policies()
    for role in Role:
        assert rules[policy_name(role, hamlet.app)] == policy(role, hamlet.app)

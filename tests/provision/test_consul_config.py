"""Consul's configuration as rendered: what may not be forgotten in it, and what is refused."""

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from agent.provision.consul_config import ConsulPlan, Secrets, render
from tests.provision.consul_plans import CLIENT, SERVER

SECRETS = Secrets(gossip_key=SecretStr("gossip"), agent_token=SecretStr("token"))


def test_servers_find_each_other_by_the_names_of_their_zones_and_by_the_cloud() -> None:
    """Both may be given: the cloud's answer needs no DNS, the names need no cloud."""
    cloud = {"cloud_join": "provider=aws tag_key=consul tag_value=prod", "join": ["10.0.0.9"]}
    joins = render(ConsulPlan.model_validate(SERVER | cloud), SECRETS, (1, 8))["retry_join"]
    names = ["consul.a.cs90", "consul.b.cs90", "consul.c.cs90"]
    assert joins == ["provider=aws tag_key=consul tag_value=prod", *names, "10.0.0.9"]


def test_a_server_stays_in_its_cluster_when_it_is_stopped_and_a_client_leaves() -> None:
    """Restarting all servers must not shrink their set; scaling in must be clean."""
    server = render(ConsulPlan.model_validate(SERVER), SECRETS, (1, 8))
    client = render(ConsulPlan.model_validate(CLIENT), SECRETS, (1, 8))
    assert (server["leave_on_terminate"], client["leave_on_terminate"]) == (False, True)
    assert server["bootstrap_expect"] == server["autopilot"]["min_quorum"] == 3
    assert "bootstrap_expect" not in client


@pytest.mark.parametrize("mode", [SERVER, CLIENT])
def test_nothing_is_allowed_without_a_token(mode: dict[str, Any]) -> None:
    """ACLs deny by default, and survive a leader that is away."""
    acl = render(ConsulPlan.model_validate(mode), SECRETS, (1, 8))["acl"]
    assert (acl["enabled"], acl["default_policy"], acl["down_policy"]) == (True, "deny", "extend-cache")
    assert acl["tokens"] == {"agent": "token"}


def test_encryption_is_written_as_the_version_wants_it() -> None:
    """Flat keys before 1.12, a stanza since; the names of servers are verified either way."""
    plan = ConsulPlan.model_validate(SERVER)
    old, new = render(plan, SECRETS, (1, 8)), render(plan, SECRETS, (1, 20))
    assert (old["ca_file"], old["verify_outgoing"], old["verify_server_hostname"]) == ("/ca", True, True)
    assert new["tls"]["defaults"]["ca_file"] == "/ca"
    assert new["tls"]["internal_rpc"]["verify_server_hostname"] is True
    assert "ca_file" not in new
    assert (old["encrypt"], new["encrypt"]) == ("gossip", "gossip")


def test_ports_nobody_asked_for_are_off() -> None:
    """Newer versions turn on more of them by themselves."""
    assert "grpc_tls" not in render(ConsulPlan.model_validate(CLIENT), SECRETS, (1, 8))["ports"]
    ports = render(ConsulPlan.model_validate(CLIENT), SECRETS, (1, 22))["ports"]
    assert (ports["grpc"], ports["grpc_tls"], ports["serf_wan"], ports["https"]) == (-1, -1, -1, -1)


def test_operators_may_be_let_in_over_https_alone() -> None:
    """HTTP, which would show tokens to the network, stays on loopback."""
    changes = {"https_address": "0.0.0.0", "ports": {"https": 8501}}
    config = render(ConsulPlan.model_validate(SERVER | changes), SECRETS, (1, 8))
    assert config["client_addr"] == "127.0.0.1"
    assert config["addresses"] == {"https": "0.0.0.0"}
    assert config["ports"]["https"] == 8501
    socket = render(ConsulPlan.model_validate(CLIENT | {"client_address": "unix:///run/consul.sock"}), SECRETS, (1, 8))
    assert socket["addresses"] == {"http": "unix:///run/consul.sock"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"servers": 4}, "make it odd"),
        ({"zones": []}, "come together"),
        ({"zones": [], "domain": None}, "name the other servers"),
        ({"tls": {"ca_file": "/ca"}}, "a server needs cert_file"),
        ({"tls": {"ca_file": "/ca", "cert_file": "/cert"}}, "come together"),
        ({"tls": None, "ports": {"https": 8501}}, "ports.https needs tls"),
        ({"mode": "leader"}, "mode"),
        ({"cloud_join": "aws"}, "cloud_join"),
        ({"node": "web 1"}, "node"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    """Before Consul is ever started."""
    with pytest.raises(ValidationError) as caught:
        ConsulPlan.model_validate(SERVER | changes)
    assert words in str(caught.value)


def test_a_secret_is_in_no_representation() -> None:
    """They appear in Consul's own file only."""
    assert "'gossip'" not in repr(SECRETS)
    assert "'token'" not in repr(SECRETS)

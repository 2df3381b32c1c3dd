"""What a machine finds in ``/etc/tidegate`` after its boot. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import tomli_w

from agent.provision.aws.certificates import Bundle

ETC = PurePosixPath("/etc/tidegate")


@dataclass(frozen=True, slots=True)
class File:
    """One file; a secret is for its reader alone."""

    path: PurePosixPath
    text: str
    owner: str = "root"
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class Machine:
    """Which machine of which stack this is."""

    stack: str
    region: str
    role: str
    """``web`` or ``consul``."""
    group: str
    """Logical name of its auto-scaling group."""
    instance: str
    zone: str
    host: str
    """Its private DNS name."""
    account: str

    @property
    def node(self) -> str:
        """How Consul and Tidegate call it."""
        return f"{self.role}-{self.instance.removeprefix('i-')}"


@dataclass(frozen=True, slots=True)
class WebSecrets:
    """What a web host may know."""

    gossip_key: str
    authority: str
    agent_token: str
    node_token: str


@dataclass(frozen=True, slots=True)
class ServerSecrets:
    """What a Consul server knows on its disk."""

    gossip_key: str
    bundle: Bundle
    agent_token: str
    coordinator_token: str


def web_files(machine: Machine, settings: Mapping[str, Any], secrets: WebSecrets) -> tuple[File, ...]:
    """Return the files of a web host."""
    mine: dict[str, Any] = {
        "node": machine.node,
        "consul": {"token_file": str(ETC / "consul.token")},
        "haproxy": {
            "server_state_file": "/run/tidegate/haproxy.state",
            "socket_group": "tidegate",
            "user": "haproxy",
            "group": "haproxy",
        },
        "ec2": {
            "enabled": True,
            "launch_hook": settings["launch_hook"],
            "leave_hook": settings["leave_hook"],
            "launch_timeout": f"{settings['launch_timeout_s']}s",
            "leave_timeout": f"{settings['leave_timeout_s']}s",
            "stack": machine.stack,
            "resource": machine.group,
        },
        "apps": [settings["app"]],
    }
    consul = {"mode": "client", "node": machine.node, "tls": {"ca_file": str(ETC / "ca.pem")}}
    return (
        *_common(machine, settings, consul, secrets.gossip_key, secrets.agent_token),
        File(ETC / "ca.pem", secrets.authority, mode=0o644),
        File(ETC / "tidegate.toml", tomli_w.dumps(mine), mode=0o644),
        File(ETC / "consul.token", secrets.node_token, "tidegate"),
        File(ETC / "docker" / "config.json", docker_config(machine), "tidegate"),
    )


def server_files(machine: Machine, settings: Mapping[str, Any], secrets: ServerSecrets) -> tuple[File, ...]:
    """Return the files of a Consul server, whose agent coordinates and has no apps."""
    mine: dict[str, Any] = {
        "node": machine.node,
        "coordinator": True,
        "coordinates": [settings["app"]["name"]],
        "consul": {"token_file": str(ETC / "consul.token")},
        "docker": {"config_file": str(ETC / "docker" / "config.json")},
        "ec2": {"enabled": True},
    }
    tls = {name: str(ETC / file) for name, file in _SERVER_TLS.items()}
    consul = {"mode": "server", "node": machine.node, "tls": tls}
    return (
        *_common(machine, settings, consul, secrets.gossip_key, secrets.agent_token),
        File(ETC / "ca.pem", secrets.bundle.authority, mode=0o644),
        File(ETC / "consul.pem", secrets.bundle.certificate, mode=0o644),
        File(ETC / "consul-key.pem", secrets.bundle.key, "consul"),
        File(ETC / "tidegate.toml", tomli_w.dumps(mine), mode=0o644),
        File(ETC / "consul.token", secrets.coordinator_token, "tidegate"),
        File(ETC / "docker" / "config.json", docker_config(machine), "tidegate"),
    )


_SERVER_TLS = {"ca_file": "ca.pem", "cert_file": "consul.pem", "key_file": "consul-key.pem"}


def docker_config(machine: Machine) -> str:
    """Return Docker's configuration: credentials of the account's ECR are fetched anew at each pull, by its helper."""
    suffix = "amazonaws.com.cn" if machine.region.startswith("cn-") else "amazonaws.com"
    registry = f"{machine.account}.dkr.ecr.{machine.region}.{suffix}"
    return json.dumps({"credHelpers": {registry: "ecr-login"}}) + "\n"


def _common(
    machine: Machine, settings: Mapping[str, Any], consul: Mapping[str, Any], gossip_key: str, agent_token: str
) -> tuple[File, ...]:
    found = {
        "domain": settings["domain"],
        "zones": sorted(set(settings["zones"].split())),
        "cloud_join": f"provider=aws tag_key=Stack tag_value={machine.stack} region={machine.region}",
        "servers": settings["servers"],
        "gossip_key_file": str(ETC / "gossip.key"),
        "agent_token_file": str(ETC / "consul-agent.token"),
    }
    return (
        File(ETC / "consul.toml", tomli_w.dumps({**found, **consul}), mode=0o644),
        File(ETC / "gossip.key", gossip_key),
        File(ETC / "consul-agent.token", agent_token),
    )

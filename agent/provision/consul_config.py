"""
Consul's own configuration for a server or a host's client, rendered from a few settings. Pure.

What it stands for: ``bootstrap_expect`` counts only in an empty cluster; servers find each other by the names
``consul.<zone>.<domain>``, by cloud auto-join, or both; ACLs deny by default; gossip is encrypted where a key is
given, and RPC where certificates are. A server does not leave when it is stopped, a client does: so scaling in is
clean, and restarting all servers does not shrink their set (facts of Consul 1.8 to 1.22).
"""

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, model_validator

from agent.core.model.documents import StrictDocument, TolerantDocument

Version = tuple[int, int]
TLS_STANZA_SINCE: Version = (1, 12)
GRPC_TLS_SINCE: Version = (1, 14)

DEFAULT_INTERFACE = '{{ GetDefaultInterfaces | include "type" "IPv4" | limit 1 | attr "address" }}'
"""In Consul's own words: left alone it refuses to choose where Docker's networks are private addresses, too."""

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]


class Mode(StrEnum):
    """What a Consul agent is."""

    SERVER = "server"
    CLIENT = "client"


class Tls(StrictDocument):
    """Certificates for RPC between Consul agents, and for HTTPS where a port is set."""

    ca_file: Path
    """CA that signed all of them."""
    cert_file: Path | None = None
    """Certificate of this server; a client needs none."""
    key_file: Path | None = None
    """Its key."""
    verify_incoming: bool = False
    """Servers ask for a certificate of whoever connects, clients included; ACLs guard without it, too."""

    @model_validator(mode="after")
    def _come_together(self) -> Self:
        if (self.cert_file is None) is not (self.key_file is None):
            raise ValueError("cert_file and key_file come together")
        return self


class Ports(StrictDocument):
    """Consul's ports; ``None`` turns one off."""

    http: Annotated[int, Field(ge=1, le=65535)] = 8500
    """On the client address only."""
    https: Annotated[int, Field(ge=1, le=65535)] | None = None
    """HTTPS, needs ``tls``."""
    dns: Annotated[int, Field(ge=1, le=65535)] | None = 8600
    """DNS, on the client address."""
    server: Annotated[int, Field(ge=1, le=65535)] = 8300
    """RPC between servers and from clients; the same on all."""
    serf_lan: Annotated[int, Field(ge=1, le=65535)] = 8301
    """Gossip, TCP and UDP."""


class ConsulPlan(StrictDocument):
    """What one Consul agent shall be like: ``/etc/tidegate/consul.toml``."""

    mode: Mode
    """``server`` or ``client``."""
    node: _Name
    """Name of this machine; the same as Tidegate's node name."""
    datacenter: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")] = "dc1"
    """Name of the cluster."""
    data_dir: Path = Path("/var/lib/consul")
    """Where Consul keeps its data."""
    bind: IPv4Address | None = None
    """Address other agents reach this one at; by default that of the interface with the default route."""
    client_address: str = "127.0.0.1"
    """Where the HTTP API listens: an address, or ``unix:///path``."""
    https_address: IPv4Address | None = None
    """Where HTTPS listens, if elsewhere: for operators, while HTTP stays on loopback."""
    servers: Annotated[int, Field(ge=1, le=7)] = 3
    """How many servers make the cluster."""
    domain: _Name | None = None
    """Private DNS zone in which servers are called ``consul.<zone>.<domain>``."""
    zones: tuple[_Name, ...] = ()
    """Availability zones with a server each."""
    join: tuple[str, ...] = ()
    """Further addresses to join."""
    cloud_join: Annotated[str, Field(pattern=r"^provider=[a-z]+( [a-z_]+=[^ ]+)*$")] | None = None
    """Consul's cloud auto-join, such as ``provider=aws tag_key=consul tag_value=prod``."""
    gossip_key_file: Path | None = None
    """File with the gossip key (``consul keygen``)."""
    agent_token_file: Path | None = None
    """File with the agent's own ACL token."""
    acl: bool = True
    """ACLs with default deny."""
    tls: Tls | None = None
    """Encryption of RPC; none by default."""
    ports: Ports = Ports()
    """Ports."""
    raft_multiplier: Annotated[int, Field(ge=1, le=10)] = 1
    """1: failover in about 3 s; higher bears slower machines."""

    @model_validator(mode="after")
    def _finds_others(self) -> Self:
        if bool(self.zones) is not (self.domain is not None):
            raise ValueError("zones and domain come together: servers are called consul.<zone>.<domain>")
        if not self.joins and (self.mode is Mode.CLIENT or self.servers > 1):
            raise ValueError("name the other servers: zones and domain, join, or cloud_join")
        if self.mode is Mode.SERVER and self.servers % 2 == 0:
            raise ValueError(f"servers: {self.servers} tolerate no more failures than {self.servers - 1}: make it odd")
        if self.ports.https is not None and self.tls is None:
            raise ValueError("ports.https needs tls")
        if self.mode is Mode.SERVER and self.tls is not None and self.tls.cert_file is None:
            raise ValueError("tls: a server needs cert_file and key_file")
        return self

    @property
    def joins(self) -> tuple[str, ...]:
        """Everything to join, cloud auto-join first: it needs no DNS."""
        cloud = (self.cloud_join,) if self.cloud_join else ()
        return (*cloud, *(f"consul.{zone}.{self.domain}" for zone in self.zones), *self.join)


class Secrets(TolerantDocument):
    """What stands in files of its own."""

    gossip_key: SecretStr | None = None
    agent_token: SecretStr | None = None


def render(plan: ConsulPlan, secrets: Secrets, version: Version) -> dict[str, Any]:
    """Return the configuration as Consul's JSON for Consul *version*; it holds the secrets."""
    is_server = plan.mode is Mode.SERVER
    config: dict[str, Any] = {
        "server": is_server,
        "node_name": plan.node,
        "datacenter": plan.datacenter,
        "data_dir": str(plan.data_dir),
        "bind_addr": str(plan.bind or DEFAULT_INTERFACE),
        "retry_join": list(plan.joins),
        "retry_interval": "5s",
        "leave_on_terminate": not is_server,
        "disable_update_check": True,
        "ports": _ports(plan.ports, version),
        "performance": {"raft_multiplier": plan.raft_multiplier},
        **_addresses(plan),
        **_tls(plan, version),
    }
    if is_server:
        config["bootstrap_expect"] = plan.servers
        config["autopilot"] = {"cleanup_dead_servers": True, "last_contact_threshold": "1s"}
        if plan.servers > 1:
            config["autopilot"]["min_quorum"] = plan.servers
    if secrets.gossip_key is not None:
        config["encrypt"] = secrets.gossip_key.get_secret_value()
    if plan.acl:
        config["acl"] = _acl(secrets)
    return config


def _acl(secrets: Secrets) -> dict[str, Any]:
    acl: dict[str, Any] = {
        "enabled": True,
        "default_policy": "deny",
        "down_policy": "extend-cache",
        "enable_token_persistence": True,
    }
    if secrets.agent_token is not None:
        acl["tokens"] = {"agent": secrets.agent_token.get_secret_value()}
    return acl


def _addresses(plan: ConsulPlan) -> dict[str, Any]:
    is_socket = plan.client_address.startswith("unix://")
    addresses = {"http": plan.client_address} if is_socket else {}
    if plan.https_address is not None:
        addresses["https"] = str(plan.https_address)
    rendered: dict[str, Any] = {"client_addr": "127.0.0.1" if is_socket else plan.client_address}
    if is_socket:
        rendered["unix_sockets"] = {"mode": "0660"}
    return rendered | ({"addresses": addresses} if addresses else {})


def _ports(ports: Ports, version: Version) -> Mapping[str, int]:
    off = -1
    table = {
        "http": ports.http,
        "https": ports.https or off,
        "dns": ports.dns or off,
        "server": ports.server,
        "serf_lan": ports.serf_lan,
        "serf_wan": off,
        "grpc": off,
    }
    return table | ({"grpc_tls": off} if version >= GRPC_TLS_SINCE else {})


def _tls(plan: ConsulPlan, version: Version) -> dict[str, Any]:
    if plan.tls is None:
        return {}
    files = {"ca_file": str(plan.tls.ca_file)}
    if plan.tls.cert_file is not None:
        files |= {"cert_file": str(plan.tls.cert_file), "key_file": str(plan.tls.key_file)}
    asks = plan.mode is Mode.SERVER and plan.tls.verify_incoming
    if version < TLS_STANZA_SINCE:
        return files | {
            "verify_incoming_rpc": asks,
            "verify_outgoing": True,
            "verify_server_hostname": True,
        }
    return {
        "tls": {
            "defaults": files | {"verify_outgoing": True},
            "internal_rpc": {"verify_incoming": asks, "verify_server_hostname": True},
        },
    }

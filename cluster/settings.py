"""What each machine of the cluster finds in ``/etc/tidegate``: settings for all to read, secrets for one."""

import base64
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tomli_w

from cluster.secrets import DOMAIN, REGISTRY, SERVERS, ZONES, Secrets
from cluster.servers.host import TEST_KNOBS

APP = "cs90"
ETC = "/etc/tidegate"


@dataclass(frozen=True, slots=True)
class File:
    """One file on a machine."""

    path: str
    text: str
    owner: str = "root"
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class AppPlan:
    """What the cluster's app is like; by default the test app, with short times."""

    container_port: int = 8080
    health_path: str = "/health"
    knobs: Mapping[str, str] = field(default_factory=lambda: {**TEST_KNOBS, "healthy_deadline": "12s"})


def web_files(node: str, secrets: Secrets, app: AppPlan) -> list[File]:
    """Return the files of the web host *node*."""
    settings: dict[str, Any] = {
        "node": node,
        "consul": {"token_file": f"{ETC}/consul.token"},
        "haproxy": {
            "server_state_file": "/run/tidegate/haproxy.state",
            "socket_group": "tidegate",
            "user": "haproxy",
            "group": "haproxy",
            "hard_stop_after": "10s",
        },
        "apps": [
            {
                "name": APP,
                "container_port": app.container_port,
                "health_path": app.health_path,
                "knobs": dict(app.knobs),
            },
        ],
    }
    consul = {"mode": "client", "node": node, "tls": {"ca_file": f"{ETC}/ca.pem"}}
    return [
        *_common(node, secrets, consul),
        File(f"{ETC}/tidegate.toml", tomli_w.dumps(settings), mode=0o644),
        File(f"{ETC}/consul.token", secrets.token(f"node/{node}"), "tidegate"),
    ]


def server_files(node: str, secrets: Secrets) -> list[File]:
    """Return the files of the Consul server *node*, whose agent coordinates and has no apps."""
    settings: dict[str, Any] = {
        "node": node,
        "coordinator": True,
        "coordinates": [APP],
        "apps": [],
        "consul": {"token_file": f"{ETC}/consul.token"},
    }
    tls = {"ca_file": f"{ETC}/ca.pem", "cert_file": f"{ETC}/consul.pem", "key_file": f"{ETC}/consul-key.pem"}
    consul = {"mode": "server", "node": node, "https_address": "0.0.0.0", "tls": tls, "ports": {"https": 8501}}
    return [
        *_common(node, secrets, consul),
        File(f"{ETC}/tidegate.toml", tomli_w.dumps(settings), mode=0o644),
        File(f"{ETC}/consul.token", secrets.token(f"coordinator/{node}"), "tidegate"),
        File(f"{ETC}/consul.pem", secrets.certificate.read_text(), mode=0o644),
        File(f"{ETC}/consul-key.pem", secrets.key.read_text(), "consul"),
    ]


def _common(node: str, secrets: Secrets, consul: Mapping[str, Any]) -> list[File]:
    found = {
        "domain": DOMAIN,
        "zones": list(ZONES),
        "servers": len(SERVERS),
        "gossip_key_file": f"{ETC}/gossip.key",
        "agent_token_file": f"{ETC}/consul-agent.token",
    }
    authority = secrets.ca.read_text()
    return [
        File(f"{ETC}/consul.toml", tomli_w.dumps({**consul, **found}), mode=0o644),
        File(f"{ETC}/gossip.key", secrets.gossip_key),
        File(f"{ETC}/consul-agent.token", secrets.token(f"agent/{node}")),
        File(f"{ETC}/ca.pem", authority, mode=0o644),
        File(f"{ETC}/docker/config.json", docker_config(REGISTRY, secrets), "tidegate"),
        # The registry's certificate is of this authority: Docker and the agent trust what the system trusts.
        File("/usr/local/share/ca-certificates/cluster.crt", authority, mode=0o644),
    ]


def docker_config(registry: str, secrets: Secrets) -> str:
    """Return a Docker configuration with the login for *registry*."""
    login = f"{secrets.login.user}:{secrets.login.password}"
    return json.dumps({"auths": {registry: {"auth": base64.b64encode(login.encode()).decode()}}})


def pack(files: Sequence[File]) -> bytes:
    """Return a tar of *files*, to be unpacked at the root of a machine."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            content = file.text.encode()
            entry.size, entry.mode, entry.uname, entry.gname = len(content), file.mode, file.owner, file.owner
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()

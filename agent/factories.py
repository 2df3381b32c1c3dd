"""Adapters made of the settings, each of its own section: the daemon, the doctor and the command line share them."""

import ssl
from pathlib import Path

from agent.adapters.aws.ec2 import Ec2
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.transport import TokenSource, tls_context
from agent.adapters.docker.adapter import DockerAdapter
from agent.adapters.haproxy.files import ProxyPaths
from agent.adapters.haproxy.runtime_api import HaproxySocket
from agent.adapters.host.journal import Journal
from agent.adapters.registry.client import Registries
from agent.config import ConsulSettings, DockerSettings, Ec2Settings, HaproxySettings
from agent.core.model.app import App
from agent.core.model.errors import FatalError
from agent.core.model.names import NodeName
from agent.pacing.clock import Clock
from agent.provision.haproxy_config import ProxyOptions


def make_consul(consul: ConsulSettings) -> ConsulClient:
    """
    Make a client by the settings.

    Raises:
        FatalError: a certificate or key cannot be used.
    """
    token = TokenSource(consul.token.get_secret_value(), file=consul.token_file)
    try:
        tls = tls_context(consul.address, consul.ca_file, consul.cert_file, consul.key_file)
    except (OSError, ssl.SSLError) as exc:
        raise FatalError(f"consul.ca_file, cert_file or key_file: {exc}") from exc
    return ConsulClient(consul.address, token=token, tls=tls)


def make_docker(docker: DockerSettings, app: App, node: NodeName) -> DockerAdapter:
    """Make the adapter for one app on this host."""
    return DockerAdapter(docker.socket, app, node, docker.config_file)


def make_registries(docker: DockerSettings) -> Registries:
    """Make the registries that a coordinator asks."""
    return Registries(docker.config_file, docker.insecure_registries)


def make_cloud(ec2: Ec2Settings) -> Ec2:
    """Make the client of the instance's metadata service and of AWS."""
    return Ec2(ec2.metadata, ec2.endpoint)


def make_proxy(haproxy: HaproxySettings, app: App, state_dir: Path) -> HaproxySocket:
    """Make the adapter for one app in this host's HAProxy."""
    return HaproxySocket(app, proxy_paths(haproxy, state_dir))


def make_journal(haproxy: HaproxySettings, app: App, state_dir: Path, clock: Clock) -> Journal:
    """Make the journal of one app; its mark of the boot lies beside HAProxy's server-state file, on a tmpfs."""
    state_file = haproxy.server_state_file
    mark_file = state_file.with_name(f"{state_file.name}.boot")
    return Journal(state_dir / f"{app.name}.journal.json", mark_file=mark_file, clock=clock)


def proxy_paths(haproxy: HaproxySettings, state_dir: Path) -> ProxyPaths:
    """Return where HAProxy and the agent meet."""
    return ProxyPaths(haproxy.socket, state_dir, haproxy.server_state_file, haproxy.master_socket)


def proxy_options(haproxy: HaproxySettings, hard_stop_after_s: float) -> ProxyOptions:
    """Return what the settings say of HAProxy's own configuration."""
    return ProxyOptions(
        ops_port=haproxy.ops_port,
        hard_stop_after_s=hard_stop_after_s,
        maxconn=haproxy.maxconn,
        user=haproxy.user,
        group=haproxy.group,
        socket_group=haproxy.socket_group,
    )


def prepare_state_dir(state_dir: Path) -> None:
    """
    Create the state directory where it is missing, and try to write in it.

    Raises:
        FatalError: it cannot be written.
    """
    try:
        state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        probe = state_dir / ".writable"
        probe.write_text("", encoding="ascii")
        probe.unlink()
    except OSError as exc:
        raise FatalError(f"state_dir: {state_dir} cannot be written: {exc.strerror}") from exc

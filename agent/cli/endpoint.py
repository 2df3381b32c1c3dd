"""
Where Consul is: by option, then environment, then settings file, then default.

The environment is read as the consul command reads it. No settings file is needed: an operator's laptop has none.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import AGENT_SERVICE, health_service
from agent.adapters.consul.transport import TokenSource, tls_context
from agent.core.model.errors import FatalError, TidegateError

if TYPE_CHECKING:
    from agent.config import Settings

DEFAULT_ADDRESS = "127.0.0.1:8500"
DEFAULT_FILE = "/etc/tidegate/tidegate.toml"
COMPLETION_S = 1.5
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})


class Choice(Protocol):
    """What options say of Consul; None where they say nothing."""

    @property
    def http_addr(self) -> str | None: ...  # noqa: D102 - the options' help texts are the contract
    @property
    def token_file(self) -> Path | None: ...  # noqa: D102 - as above
    @property
    def ca_file(self) -> Path | None: ...  # noqa: D102 - as above
    @property
    def client_cert(self) -> Path | None: ...  # noqa: D102 - as above
    @property
    def client_key(self) -> Path | None: ...  # noqa: D102 - as above


@dataclass(frozen=True, slots=True)
class NoChoice:
    """No option is given, as when a shell completes a word."""

    http_addr: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None


@dataclass(frozen=True, slots=True)
class ConsulEndpoint:
    """Where Consul is and what opens it."""

    address: str
    token: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


def settings_of(config: Path | None) -> "Settings | None":
    """Return the settings; None without a file, unless one is named with ``--config``."""
    if config is None:
        default = os.environ.get("TIDEGATE_CONFIG", DEFAULT_FILE)
        if not os.access(default, os.R_OK):
            return None
    from agent.config import load

    return load(config)


def resolve_endpoint(choice: Choice, environ: Mapping[str, str], settings: "Settings | None" = None) -> ConsulEndpoint:
    """
    Say where Consul is; each part by itself comes from the first place that has it.

    As with the consul command, a token file wins over a token of the same place, and CONSUL_HTTP_SSL makes https of
    an address that does not say otherwise, or says http.
    """
    given = {name: value for name, value in environ.items() if value}
    consul = settings.consul if settings else None

    def path(option: Path | None, variable: str, setting: Path | None) -> Path | None:
        return option or (Path(given[variable]) if variable in given else setting)

    token_file = choice.token_file or (Path(text) if (text := given.get("CONSUL_HTTP_TOKEN_FILE")) else None)
    token = "" if token_file else given.get("CONSUL_HTTP_TOKEN", "")
    if consul and not token_file and not token:
        token_file, token = consul.token_file, consul.token.get_secret_value()
    text = choice.http_addr or given.get("CONSUL_HTTP_ADDR") or (consul.address if consul else DEFAULT_ADDRESS)
    return ConsulEndpoint(
        address=with_scheme(text, is_tls=given.get("CONSUL_HTTP_SSL", "") in _TRUE),
        token=token,
        token_file=token_file,
        ca_file=path(choice.ca_file, "CONSUL_CACERT", consul.ca_file if consul else None),
        cert_file=path(choice.client_cert, "CONSUL_CLIENT_CERT", consul.cert_file if consul else None),
        key_file=path(choice.client_key, "CONSUL_CLIENT_KEY", consul.key_file if consul else None),
    )


def with_scheme(text: str, *, is_tls: bool) -> str:
    """Complete an address as the consul command does: TLS that was asked for is never taken back by ``http://``."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    return f"https://{rest}" if scheme == "http" and is_tls else f"{scheme}://{rest}"


def client_of(where: ConsulEndpoint) -> ConsulClient:
    """
    Make a client.

    Raises:
        FatalError: the address, a certificate or a key cannot be used.
    """
    try:
        tls = tls_context(where.address, where.ca_file, where.cert_file, where.key_file)
        return ConsulClient(where.address, token=TokenSource(where.token, file=where.token_file), tls=tls)
    except ValueError as exc:
        raise FatalError(f"{exc} (--http-addr, CONSUL_HTTP_ADDR, or consul.address in the settings)") from exc
    except (OSError, ssl.SSLError) as exc:
        files = ", ".join(str(file) for file in (where.ca_file, where.cert_file, where.key_file) if file)
        raise FatalError(f"TLS files {files}: {exc}") from exc


def apps_for_completion() -> list[str]:
    """Return the apps Consul knows; empty when it does not answer within a moment."""

    async def ask() -> list[str]:
        async with (
            asyncio.timeout(COMPLETION_S),
            client_of(resolve_endpoint(NoChoice(), os.environ, settings_of(None))) as client,
        ):
            return await known_apps(client)

    try:
        return asyncio.run(ask())
    except (TidegateError, TimeoutError):
        return []


async def known_apps(client: ConsulClient) -> list[str]:
    """Return the apps that agents say they run, by name."""
    found = await health_service(client, AGENT_SERVICE)
    return sorted({app for each in found.instances if (app := each.meta.get("app"))})

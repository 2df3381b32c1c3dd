"""
The way to Consul and the app it is about: option, then environment, then settings file, then default.

The environment is read as the consul command reads it. No settings file is needed: an operator's laptop has none.
"""

import asyncio
import getpass
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import AGENT_SERVICE, health_service
from agent.adapters.consul.transport import TokenSource
from agent.cli.options import Access
from agent.core.model.errors import ConsulForbiddenError, FatalError, PermanentError, TidegateError
from agent.core.model.names import AppName, parse_app

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.core.model.app import App

DEFAULT_ADDRESS = "127.0.0.1:8500"
DEFAULT_FILE = "/etc/tidegate/tidegate.toml"
AUTHOR_MAX_CHARS = 100
COMPLETION_S = 1.5
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})


@dataclass(frozen=True, slots=True)
class Reach:
    """Where Consul is and what opens it."""

    address: str
    token: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """What a command works with."""

    app: AppName
    client: ConsulClient
    author: str
    app_settings: "App | None" = None
    """The app as the settings file describes it, where there is one."""


@asynccontextmanager
async def open_session(access: Access) -> AsyncIterator[Session]:
    """
    Find Consul and the app.

    Raises:
        FatalError: settings, a certificate or the address cannot be used.
        PermanentError: no app is named, and Consul does not know exactly one.
    """
    settings = settings_of(access)
    where = reach(access, os.environ, settings)
    async with client_of(where) as client:
        try:
            app = named_app(access, os.environ, settings) or await _only_app(client)
            found = next((each for each in settings.apps if each.name == app), None) if settings else None
            yield Session(app, client, author_of(os.environ), found)
        except ConsulForbiddenError as exc:
            exc.add_note(_which_token(where))
            raise


def settings_of(access: Access) -> "Settings | None":
    """Return the settings; None without a file, unless one is named with ``--config``."""
    if access.config is None:
        default = os.environ.get("TIDEGATE_CONFIG", DEFAULT_FILE)
        if not os.access(default, os.R_OK):
            return None
    from agent.config import load

    return load(access.config)


def reach(access: Access, environ: Mapping[str, str], settings: "Settings | None" = None) -> Reach:
    """
    Say where Consul is; each part by itself comes from the first place that has it.

    As with the consul command, a token file wins over a token of the same place, and CONSUL_HTTP_SSL makes https of
    an address that does not say otherwise, or says http.
    """
    given = {name: value for name, value in environ.items() if value}
    consul = settings.consul if settings else None

    def path(option: Path | None, variable: str, setting: Path | None) -> Path | None:
        return option or (Path(given[variable]) if variable in given else setting)

    token_file = access.token_file or (Path(text) if (text := given.get("CONSUL_HTTP_TOKEN_FILE")) else None)
    token = "" if token_file else given.get("CONSUL_HTTP_TOKEN", "")
    if consul and not token_file and not token:
        token_file, token = consul.token_file, consul.token.get_secret_value()
    text = access.http_addr or given.get("CONSUL_HTTP_ADDR") or (consul.address if consul else DEFAULT_ADDRESS)
    return Reach(
        address=with_scheme(text, is_tls=given.get("CONSUL_HTTP_SSL", "") in _TRUE),
        token=token,
        token_file=token_file,
        ca_file=path(access.ca_file, "CONSUL_CACERT", consul.ca_file if consul else None),
        cert_file=path(access.client_cert, "CONSUL_CLIENT_CERT", consul.cert_file if consul else None),
        key_file=path(access.client_key, "CONSUL_CLIENT_KEY", consul.key_file if consul else None),
    )


def with_scheme(text: str, *, is_tls: bool) -> str:
    """Complete an address as the consul command does: TLS that was asked for is never taken back by ``http://``."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    return f"https://{rest}" if scheme == "http" and is_tls else f"{scheme}://{rest}"


def client_of(where: Reach) -> ConsulClient:
    """
    Make a client.

    Raises:
        FatalError: the address, a certificate or a key cannot be used.
    """
    try:
        tls: ssl.SSLContext | None = None
        if where.address.startswith("https://"):
            tls = ssl.create_default_context(cafile=where.ca_file)
            if where.cert_file is not None:
                tls.load_cert_chain(where.cert_file, where.key_file)
        return ConsulClient(where.address, token=TokenSource(where.token, file=where.token_file), tls=tls)
    except ValueError as exc:
        raise FatalError(f"{exc} (--http-addr, CONSUL_HTTP_ADDR, or consul.address in the settings)") from exc
    except (OSError, ssl.SSLError) as exc:
        files = ", ".join(str(file) for file in (where.ca_file, where.cert_file, where.key_file) if file)
        raise FatalError(f"TLS files {files}: {exc}") from exc


def named_app(access: Access, environ: Mapping[str, str], settings: "Settings | None") -> AppName | None:
    """Return the app that option, environment or settings name; None where they name none."""
    text = access.app or environ.get("TIDEGATE_APP")
    if text:
        try:
            return parse_app(text)
        except ValueError as exc:
            raise typer.BadParameter(str(exc), param_hint="--app") from exc
    names = {app.name for app in settings.apps} or set(settings.coordinated) if settings else set()
    return names.pop() if len(names) == 1 else None


def author_of(environ: Mapping[str, str]) -> str:
    """Return who commands: $TIDEGATE_AUTHOR, else ``user@host``."""
    text = environ.get("TIDEGATE_AUTHOR") or f"{_user()}@{socket.gethostname()}"
    return "".join(char for char in text if char.isprintable())[:AUTHOR_MAX_CHARS]


def apps_for_completion() -> list[str]:
    """Return the apps Consul knows; empty when it does not answer within a moment."""

    async def ask() -> list[str]:
        async with (
            asyncio.timeout(COMPLETION_S),
            client_of(reach(Access(), os.environ, settings_of(Access()))) as client,
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


async def _only_app(client: ConsulClient) -> AppName:
    apps = await known_apps(client)
    if len(apps) == 1:
        return parse_app(apps[0])
    known = f"{client.name} knows {', '.join(apps)}" if apps else f"{client.name} shows no agent with an app"
    raise PermanentError(f"name the app with --app or TIDEGATE_APP: {known}")


def _which_token(where: Reach) -> str:
    if where.token_file is not None:
        return f"the token was that of {where.token_file}"
    given = "the token was given by its value" if where.token else "no token was given"
    return f"{given}; --token-file, CONSUL_HTTP_TOKEN_FILE and CONSUL_HTTP_TOKEN name one"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())

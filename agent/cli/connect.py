"""What a command works with: Consul, the app it is about, and who commands."""

import getpass
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from agent.adapters.consul.kv import ConsulClient
from agent.cli.endpoint import ConsulEndpoint, client_of, known_apps, resolve_endpoint, settings_of
from agent.cli.options import ConsulOptions
from agent.core.model.errors import ConsulForbiddenError, PermanentError
from agent.core.model.names import AppName, parse_app

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.core.model.app import App

AUTHOR_MAX_CHARS = 100


@dataclass(frozen=True, slots=True)
class Session:
    """What a command works with."""

    app: AppName
    client: ConsulClient
    author: str
    app_settings: "App | None" = None
    """The app as the settings file describes it, where there is one."""


@asynccontextmanager
async def open_session(consul_options: ConsulOptions) -> AsyncIterator[Session]:
    """
    Find Consul and the app.

    Raises:
        FatalError: settings, a certificate or the address cannot be used.
        PermanentError: no app is named, and Consul does not know exactly one.
    """
    settings = settings_of(consul_options.config)
    where = resolve_endpoint(consul_options, os.environ, settings)
    async with client_of(where) as client:
        try:
            app = named_app(consul_options, os.environ, settings) or await _only_app(client)
            found = next((each for each in settings.apps if each.name == app), None) if settings else None
            yield Session(app, client, author_of(os.environ), found)
        except ConsulForbiddenError as exc:
            exc.add_note(_which_token(where))
            raise


def named_app(consul_options: ConsulOptions, environ: Mapping[str, str], settings: "Settings | None") -> AppName | None:
    """Return the app that option, environment or settings name; None where they name none."""
    text = consul_options.app or environ.get("TIDEGATE_APP")
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


async def _only_app(client: ConsulClient) -> AppName:
    apps = await known_apps(client)
    if len(apps) == 1:
        return parse_app(apps[0])
    known = f"{client.name} knows {', '.join(apps)}" if apps else f"{client.name} shows no agent with an app"
    raise PermanentError(f"name the app with --app or TIDEGATE_APP: {known}")


def _which_token(where: ConsulEndpoint) -> str:
    if where.token_file is not None:
        return f"the token was that of {where.token_file}"
    given = "the token was given by its value" if where.token else "no token was given"
    return f"{given}; --token-file, CONSUL_HTTP_TOKEN_FILE and CONSUL_HTTP_TOKEN name one"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())

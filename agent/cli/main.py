"""``tidegate``: the command line. Imports stay inside the commands, so that help is there at once."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from agent import __version__
from agent.core.errors import FatalError, TidegateError

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Deploy releases of a web application without losing a request or moving a visitor in mid-visit.",
)

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file [default: $TIDEGATE_CONFIG, /etc/tidegate/tidegate.toml]"),
]
Port = Annotated[
    int | None, typer.Option("--api-port", help="Port of the agent's API [default: that of the settings, else 8405]")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@cli.command("agent")
def run_agent(
    config: Config = None,
    check_config: Annotated[bool, typer.Option("--check-config", help="Only check the settings.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log every look.")] = False,
) -> None:
    """Run the agent of this host until a signal; containers and traffic go on without it."""
    from agent.config import load

    settings = load(config)
    if check_config:
        typer.echo(f"settings are valid: node {settings.node}, app {settings.app.name}")
        return
    import asyncio

    from agent import daemon, log

    log.configure(node=settings.node, debug=debug)
    asyncio.run(daemon.run_agent(settings))


@cli.command("haproxy-config")
def haproxy_config(
    config: Config = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it here when it is valid.")] = None,
) -> None:
    """Render HAProxy's configuration for the settings, checked with ``haproxy -c``; to standard output, or --out."""
    import asyncio

    from agent.adapters.haproxy import HaproxySocket
    from agent.adapters.haproxy_config import check, render
    from agent.adapters.journal import write_atomically
    from agent.config import load
    from agent.daemon import prepare_state_dir, proxy_options, proxy_paths

    settings = load(config)
    prepare_state_dir(settings)
    HaproxySocket(settings.app, proxy_paths(settings)).ensure_maps()
    text = render(settings.app, proxy_paths(settings), proxy_options(settings))
    typer.echo(asyncio.run(check(text, settings.haproxy.binary)), err=True)
    if out is None:
        typer.echo(text, nl=False)
    else:
        try:
            write_atomically(out, text, mode=0o644)
        except OSError as exc:
            raise FatalError(f"--out: {out} cannot be written: {exc.strerror}") from exc
        typer.echo(f"wrote {out}; reload HAProxy to use it", err=True)


@cli.command("consul-config")
def consul_config(
    config: Annotated[Path, typer.Option("--config", "-c", help="What Consul shall be like on this machine.")] = Path(
        "/etc/tidegate/consul.toml"
    ),
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it here when it is valid.")] = None,
    consul: Annotated[str, typer.Option("--consul", help="The Consul program.")] = "consul",
) -> None:
    """Render Consul's own configuration, checked with ``consul validate``; to standard output, or --out."""
    import asyncio

    from agent.cli.consul_config import write

    asyncio.run(write(config, out, consul))


@cli.command()
def status(
    config: Config = None,
    api_port: Port = None,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again each second until Ctrl-C.")] = False,
) -> None:
    """Show this host: slots, releases, phases, open requests, and what is waited for."""
    from agent.cli.status import show

    show(_api_port(config, api_port), as_json=as_json, watch=watch)


@cli.command()
def plan(config: Config = None, api_port: Port = None, as_json: Json = False) -> None:
    """Show what the agent of this host would do now; changes nothing."""
    from agent.cli.status import show_plan

    show_plan(_api_port(config, api_port), as_json=as_json)


@cli.command()
def doctor(config: Config = None, as_json: Json = False) -> None:
    """Look at all that this host's agent depends on, and say what to do; exit code 1 if something must be mended."""
    from agent.cli.doctor import show
    from agent.config import load

    if not show(load(config), as_json=as_json):
        raise typer.Exit(1)


@cli.command()
def adopt(
    reason: Annotated[str, typer.Option("--reason", help="Why, for the audit entry.")],
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Accept a state of Consul that went back (a restored snapshot): hosts follow active/image as it is now."""
    import asyncio

    from agent.cli.adopt import adopt as accept
    from agent.config import load

    asyncio.run(accept(load(config), reason=reason, yes=yes))


@cli.command()
def leave(config: Config = None, api_port: Port = None) -> None:
    """Take this host out of traffic: its load-balancer health turns 503; open visits go on."""
    from agent.cli.client import ask

    ask(_api_port(config, api_port), "POST", "/v1/leave")
    typer.echo("leaving: the health path answers 503; `tidegate return` undoes it")


@cli.command("return")
def come_back(config: Config = None, api_port: Port = None) -> None:
    """Bring a host that left back into traffic."""
    from agent.cli.client import ask

    ask(_api_port(config, api_port), "POST", "/v1/return")
    typer.echo("back: the health path says again what the slots say")


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; a known error is one line on standard error and exit code 1."""
    try:
        cli()
    except TidegateError as exc:
        _end_with([exc])
    except BaseExceptionGroup as group:
        known, others = group.split(TidegateError)
        if others is not None or known is None:
            raise
        _end_with(_leaves(known))


def _end_with(errors: list[TidegateError]) -> NoReturn:
    for error in errors:
        typer.echo(f"tidegate: {error}", err=True)
    sys.exit(1)


def _leaves(group: BaseExceptionGroup[TidegateError]) -> list[TidegateError]:
    found: list[TidegateError] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


def _api_port(config: Path | None, api_port: int | None) -> int:
    if api_port is not None:
        return api_port
    from agent.config import DEFAULT_FILE, ApiSettings, load

    if config is None and not os.path.exists(DEFAULT_FILE) and "TIDEGATE_CONFIG" not in os.environ:  # noqa: PTH110 - Path.exists raises without permission
        return ApiSettings().port
    return load(config).api.port

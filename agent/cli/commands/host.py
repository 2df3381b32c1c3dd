"""Commands about this host: its agent, and the configuration of what it works with."""

import os
from pathlib import Path
from typing import Annotated

import typer

from agent import __version__
from agent.cli.options import Config, Port
from agent.core.model.errors import FatalError


def run_agent(
    config: Config = None,
    check_config: Annotated[bool, typer.Option("--check-config", help="Only check the settings.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log at level debug.")] = False,
) -> None:
    """Run the agent of this host until a signal; containers and traffic do not need it."""
    from agent.config import load

    settings = load(config)
    if check_config:
        runs = f"app {settings.app.name}" if settings.apps else f"coordinates {', '.join(settings.coordinated)}"
        typer.echo(f"settings are valid: node {settings.node}, {runs}")
        return
    import asyncio

    from agent import daemon, log

    log.configure(node=settings.node, debug=debug)
    asyncio.run(daemon.run_agent(settings))


def haproxy_config(
    config: Config = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the valid configuration to this file.")] = None,
) -> None:
    """Render HAProxy's configuration for the settings, checked with ``haproxy -c``; to standard output, or --out."""
    import asyncio

    from agent.adapters.host.atomic_file import write_atomically
    from agent.config import load
    from agent.factories import make_proxy, prepare_state_dir, proxy_options, proxy_paths
    from agent.provision.haproxy_config import check, render

    settings = load(config)
    prepare_state_dir(settings.state_dir)
    make_proxy(settings.haproxy, settings.app, settings.state_dir).ensure_maps()
    paths = proxy_paths(settings.haproxy, settings.state_dir)
    text = render(settings.app, paths, proxy_options(settings.haproxy, settings.hard_stop_after_s))
    typer.echo(asyncio.run(check(text, settings.haproxy.binary)), err=True)
    if out is None:
        typer.echo(text, nl=False)
    else:
        try:
            write_atomically(out, text, mode=0o644)
        except OSError as exc:
            raise FatalError(f"--out: {out} cannot be written: {exc.strerror}") from exc
        typer.echo(f"wrote {out}; reload HAProxy to use it", err=True)


def consul_config(
    config: Annotated[Path, typer.Option("--config", "-c", help="Settings of Consul on this machine.")] = Path(
        "/etc/tidegate/consul.toml"
    ),
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the valid configuration to this file.")] = None,
    consul: Annotated[str, typer.Option("--consul", help="The Consul program.")] = "consul",
) -> None:
    """Render Consul's own configuration, checked with ``consul validate``; to standard output, or --out."""
    import asyncio

    from agent.provision.render_consul import write

    asyncio.run(write(config, out, consul))


def leave(config: Config = None, api_port: Port = None) -> None:
    """Take this host out of traffic: its load-balancer health path answers 503; open visits continue."""
    from agent.adapters.host.agent_api import ask

    ask(port_of(config, api_port), "POST", "/v1/leave")
    typer.echo("leaving: the health path answers 503; `tidegate return` undoes it")


def come_back(config: Config = None, api_port: Port = None) -> None:
    """Return this host to traffic after ``tidegate leave``."""
    from agent.adapters.host.agent_api import ask

    ask(port_of(config, api_port), "POST", "/v1/return")
    typer.echo("back: the health path says again what the slots say")


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def port_of(config: Path | None, api_port: int | None) -> int:
    """Return the port of this host's agent: as given, else of the settings, else the default."""
    if api_port is not None:
        return api_port
    from agent.config import DEFAULT_FILE, ApiSettings, load

    if config is None and not os.path.exists(DEFAULT_FILE) and "TIDEGATE_CONFIG" not in os.environ:  # noqa: PTH110 - Path.exists raises without permission
        return ApiSettings().port
    return load(config).api.port

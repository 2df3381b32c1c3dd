"""``tidegate status`` of the fleet, and of this host alone where Consul cannot tell of a fleet."""

import asyncio
import json
from collections.abc import Callable

import typer
from rich.live import Live

from agent.adapters.consul.fleet_snapshot import snapshot
from agent.adapters.host.agent_api import ask
from agent.cli.connect import Session, open_session
from agent.cli.options import ConsulOptions
from agent.cli.rollout.follower import FRAME_ROWS, until_change
from agent.cli.views import host_table as local
from agent.cli.views.fleet import FleetView, view_of
from agent.cli.views.fleet_json import document
from agent.cli.views.fleet_table import console, render
from agent.cli.views.text import clean
from agent.core.model.errors import FatalError, TidegateError, TransientError
from agent.core.rollout.liveness import Liveness


def show(consul_options: ConsulOptions, port: Callable[[], int], *, watch: bool) -> None:
    """
    Print the fleet once, or whenever it changes until Ctrl-C.

    Args:
        access: which fleet.
        port: of this host's agent, which is asked where Consul does not tell; not with ``--json``.
        watch: go on.

    Raises:
        TidegateError: Consul does not tell, and no agent answers here.
    """
    try:
        first = asyncio.run(_once(consul_options))
    except FatalError:
        raise
    except TidegateError as exc:
        if consul_options.as_json:
            raise
        _show_host(port, f"{exc}: this host alone", exc, watch=watch)
        return
    if first.snapshot.is_empty and not consul_options.as_json and _answers(port):
        _show_host(port, f"Consul has nothing of {first.snapshot.app}: this host alone", None, watch=watch)
    elif not watch:
        _print(first, as_json=consul_options.as_json)
    else:
        try:
            asyncio.run(_watch(consul_options))
        except KeyboardInterrupt:
            return


async def _once(consul_options: ConsulOptions) -> FleetView:
    async with open_session(consul_options) as session:
        view, _ = view_of(await snapshot(session.client, session.app))
        return view


def _print(view: FleetView, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(document(view)))
    else:
        console().print(render(view), crop=False)


async def _watch(consul_options: ConsulOptions) -> None:
    async with open_session(consul_options) as session:
        if consul_options.as_json or not (screen := console()).is_terminal:
            await _forever(session, lambda view: _print(view, as_json=consul_options.as_json), typer.echo)
            return
        with Live(console=screen, auto_refresh=False, screen=False) as live:

            def draw(view: FleetView) -> None:
                live.update(render(view, rows_max=max(3, screen.height - FRAME_ROWS - len(view.bars))), refresh=True)

            await _forever(session, draw, lambda text: live.console.print(text, markup=False, style="red"))


async def _forever(session: Session, draw: Callable[[FleetView], None], tell: Callable[[str], None]) -> None:
    liveness, view, problem = Liveness(), None, ""
    while True:
        try:
            view, liveness = view_of(await snapshot(session.client, session.app), liveness)
            draw(view)
            problem = ""
        except TransientError as exc:
            if not problem:
                tell(clean(f"{exc}; goes on trying"))
            view, problem = None, str(exc)
        await until_change(session, view)


def _answers(port: Callable[[], int]) -> bool:
    try:
        ask(port(), "GET", "/v1/status")
    except TidegateError:
        return False
    return True


def _show_host(port: Callable[[], int], note: str, cause: TidegateError | None, *, watch: bool) -> None:
    """Show this host; where it has no agent either, end with *cause*."""
    if cause is not None and not _answers(port):
        cause.add_note("and no agent answers on this host; `tidegate status --local` says why")
        raise cause
    typer.echo(clean(note), err=True)
    local.show(port(), as_json=False, watch=watch)

"""``tidegate``: the command line. Imports stay inside the commands, so that help is there at once."""

import io
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from agent.cli.commands import host as host_commands
from agent.cli.commands import rollout as rollout_commands
from agent.cli.commands import views as view_commands
from agent.cli.exit_codes import Exit
from agent.core.model.errors import TidegateError

FLEET = "The fleet"
HOST = "This host"

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Deploy releases of a web application without losing a request or moving a visitor in mid-visit.",
    epilog="Exit codes: 0 done, 1 error, 2 usage, 3 the rollout was taken back, 4 another one is in progress, "
    "5 timed out, 130 interrupted; after 5 and 130 the rollout goes on.",
)

_COMMANDS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("deploy", FLEET, rollout_commands.deploy),
    ("plan", FLEET, view_commands.plan),
    ("status", FLEET, view_commands.status),
    ("promote", FLEET, rollout_commands.promote),
    ("abort", FLEET, rollout_commands.abort),
    ("rollback", FLEET, rollout_commands.rollback),
    ("pause", FLEET, rollout_commands.pause),
    ("resume", FLEET, rollout_commands.resume),
    ("history", FLEET, view_commands.history),
    ("show", FLEET, view_commands.show),
    ("nodes", FLEET, view_commands.nodes),
    ("adopt", FLEET, rollout_commands.adopt),
    ("init", FLEET, view_commands.init),
    ("agent", HOST, host_commands.run_agent),
    ("haproxy-config", HOST, host_commands.haproxy_config),
    ("consul-config", HOST, host_commands.consul_config),
    ("doctor", HOST, view_commands.doctor),
    ("leave", HOST, host_commands.leave),
    ("return", HOST, host_commands.come_back),
    ("version", HOST, host_commands.version),
)
for _name, _panel, _command in _COMMANDS:
    cli.command(_name, rich_help_panel=_panel)(_command)


def main() -> None:
    """Run the command line; a known error is one line on standard error, and its exit code says of which kind."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A pipe may have an encoding without the signs of a table: a question mark is better than no answer.
            stream.reconfigure(errors="replace")
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
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        typer.echo(f"tidegate: {error}{notes}", err=True)
    sys.exit(max(int(getattr(error, "exit_code", Exit.ERROR)) for error in errors))


def _leaves(group: BaseExceptionGroup[TidegateError]) -> list[TidegateError]:
    found: list[TidegateError] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found

"""
Options that commands share, as groups: a command takes a group as one value, and typer sees its fields as options.

Nothing heavy is imported here: this module is loaded for ``--help``.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

CONSUL_PANEL = "How to reach Consul (the consul command's environment variables work, too)"
KNOBS_PANEL = "Knobs of the rollout"
WAITING_PANEL = "Waiting"

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file (default: $TIDEGATE_CONFIG, /etc/tidegate/tidegate.toml)"),
]
Port = Annotated[
    int | None, typer.Option("--api-port", help="Port of the agent's API (default: from the settings, or 8405)")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def one_line(text: str) -> str:
    """Return *text* as every reader can show it: a space for a line break, ``?`` for a byte that is no UTF-8."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)


Reason = Annotated[str, typer.Option("--reason", callback=one_line, help="Reason, kept in the record and the history.")]


class WaitUntil(StrEnum):
    """Until when a command follows a rollout."""

    PROMOTION = "promotion"
    """It waits for ``promote``, or is past it."""
    SWITCHED = "switched"
    """Every host gives its new visitors the new release."""
    DONE = "done"
    """The old release is gone everywhere."""


Wait = Annotated[
    WaitUntil,
    typer.Option(
        "--wait",
        help="Return when the rollout waits for `promote`, all hosts have switched, or the old release is gone.",
        rich_help_panel=WAITING_PANEL,
    ),
]


def complete_app(incomplete: str) -> list[str]:
    """Offer the apps that Consul knows; none when it does not answer at once."""
    from agent.cli.endpoint import apps_for_completion

    return [app for app in apps_for_completion() if app.startswith(incomplete)]


@dataclass(frozen=True, slots=True)
class ConsulOptions:
    """Which app, in which Consul."""

    app: Annotated[
        str | None,
        typer.Option(
            "--app",
            "-a",
            help="App (default: $TIDEGATE_APP, the app of the settings, or the only app in Consul)",
            autocompletion=complete_app,
        ),
    ] = None
    as_json: Json = False
    config: Config = None
    http_addr: Annotated[
        str | None,
        typer.Option(
            "--http-addr",
            help="Address, scheme optional (default: $CONSUL_HTTP_ADDR, the settings, 127.0.0.1:8500)",
            rich_help_panel=CONSUL_PANEL,
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="File with the ACL token.", rich_help_panel=CONSUL_PANEL),
    ] = None
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file", help="CA certificate that signed Consul's certificate.", rich_help_panel=CONSUL_PANEL
        ),
    ] = None
    client_cert: Annotated[
        Path | None, typer.Option("--client-cert", help="Client certificate.", rich_help_panel=CONSUL_PANEL)
    ] = None
    client_key: Annotated[
        Path | None,
        typer.Option("--client-key", help="Private key of the client certificate.", rich_help_panel=CONSUL_PANEL),
    ] = None


Detach = Annotated[
    bool,
    typer.Option("--detach", "-d", help="Return when the command is written to Consul.", rich_help_panel=WAITING_PANEL),
]
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        help="Stop following after this time; the rollout continues (default: its longest possible duration)",
        metavar="DURATION",
        rich_help_panel=WAITING_PANEL,
    ),
]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a command follows."""

    detach: Detach = False
    timeout: Timeout = None


@dataclass(frozen=True, slots=True)
class WaitOptions:
    """Until when a command follows, and how long at most."""

    wait: Wait = WaitUntil.SWITCHED
    detach: Detach = False
    timeout: Timeout = None

    @property
    def timeouts(self) -> Timeouts:
        """How long."""
        return Timeouts(self.detach, self.timeout)


def _knob(name: str, meaning: str, metavar: str = "DURATION") -> Any:
    return typer.Option(f"--{name}", help=meaning, metavar=metavar, rich_help_panel=KNOBS_PANEL, show_default=False)


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """How a rollout shall proceed: what differs from the app's settings, or else from the defaults."""

    spec: Annotated[
        Path | None,
        typer.Option(
            "--spec", help="Run spec, JSON or TOML (default: default_spec of the settings, or the last recorded spec)"
        ),
    ] = None
    canary: Annotated[
        str | None,
        typer.Option("--canary", help="Switch this part of the hosts first, then wait for `promote`.", metavar="N|N%"),
    ] = None
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps", help="Parts of the hosts in order, the first is the canary: 10%,50%,100%", metavar="N|N%,..."
        ),
    ] = None
    manual: Annotated[bool, typer.Option("--manual", help="Stage on all hosts, then wait for `promote`.")] = False
    force_source: Annotated[
        bool,
        typer.Option(
            "--force-source",
            help="Deploy although hosts serve different releases; a rollback uses the most common one.",
        ),
    ] = False
    bake_time: Annotated[
        str | None, _knob("bake-time", "Minimum time the old release stays warm (default: from the settings, or 5m)")
    ] = None
    drain_idle: Annotated[
        str | None,
        _knob("drain-idle", "Time without requests in the fleet after which the old release is unused (default: 60s)"),
    ] = None
    drain_timeout: Annotated[
        str | None,
        _knob("drain-timeout", "Maximum time visitors keep the old release (default: from the settings, or 30m)"),
    ] = None
    min_healthy_time: Annotated[
        str | None,
        _knob(
            "min-healthy-time",
            "Time a switched host may be down before it counts as failed (default: from the settings, or 10s)",
        ),
    ] = None
    progress_deadline: Annotated[
        str | None, _knob("progress-deadline", "Maximum time for each phase in which hosts work (default: 10m)")
    ] = None
    promote_timeout: Annotated[str | None, _knob("promote-timeout", "Maximum wait for `promote` (default: 1h)")] = None
    stop_grace_period: Annotated[
        str | None,
        _knob("stop-grace-period", "Time an old container has to stop (default: from the settings, or 10s)"),
    ] = None
    lost_after: Annotated[
        str | None, _knob("lost-after", "Time without contact after which a host is lost (default: 60s)")
    ] = None
    max_lost: Annotated[
        str | None, _knob("max-lost", "Maximum number of hosts lost before the commit (default: 10%)", "N|N%")
    ] = None
    max_failed: Annotated[
        str | None,
        _knob("max-failed", "Maximum number of failed hosts in a rollout that continues (default: 0)", "N|N%"),
    ] = None
    min_members: Annotated[str | None, _knob("min-members", "Minimum number of staged hosts (default: 1)", "N")] = None


@dataclass(frozen=True, slots=True)
class ConflictOptions:
    """Why a rollout begins, and what is to be done where another one is in progress."""

    reason: Reason = ""
    queue: Annotated[bool, typer.Option("--queue", help="Wait until the rollout in progress has ended.")] = False
    supersede: Annotated[
        bool, typer.Option("--supersede", help="Abort the rollout in progress first; possible before its commit only.")
    ] = False


def expand_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let every parameter of *command* that is a group be given as the options of its fields."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if is_dataclass(parameter.annotation)
    }
    own = [parameter for name, parameter in signature.parameters.items() if name not in groups]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        values = {name: given.pop(name) for name in (parameter.name for parameter in own)}
        for name, group in groups.items():
            values[name] = group(**{each.name: given.pop(each.name) for each in fields(group)})
        command(**values)

    shared = [parameter for group in groups.values() for parameter in _parameters(group)]
    run.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return run


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for each in fields(group):
        yield inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name]
        )

"""``tidegate-machine``: what the systemd units of a machine run. Imports stay inside the commands."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from agent.core.model.errors import TidegateError

METADATA = "http://169.254.169.254"
STACK_ENV = Path("/etc/tidegate/stack.env")

machine = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="For the systemd units of a machine.")
drain = typer.Typer(no_args_is_help=True, help="Take this host out of traffic before it stops, and back after a boot.")
machine.add_typer(drain, name="drain")

Metadata = Annotated[str, typer.Option("--metadata", help="The instance's metadata service.")]
StackEnv = Annotated[Path, typer.Option("--stack-env", help="What user-data wrote.")]


@machine.command("boot")
def boot(metadata: Metadata = METADATA, stack_env: StackEnv = STACK_ENV) -> None:
    """Bring this AWS instance into its role."""
    from agent.provision.aws.commands import boot as run  # noqa: PLC0415 - needs the extra [infra]

    run(metadata, stack_env)


@machine.command("leave")
def leave(metadata: Metadata = METADATA, stack_env: StackEnv = STACK_ENV) -> None:
    """Wait until AWS terminates this Consul server, then let it leave."""
    from agent.provision.aws.commands import leave as run  # noqa: PLC0415 - as above

    run(metadata, stack_env)


@drain.command("start")
def drain_start() -> None:
    """Bring the host back into traffic after the boot, if the shutdown took it out."""
    from agent.provision.drain import this_host  # noqa: PLC0415 - reads the settings

    with _never_failing():
        if (host := this_host()) is not None:
            host.end()


@drain.command("stop")
def drain_stop() -> None:
    """Take the host out of traffic, and wait until nothing is open."""
    from agent.provision.drain import longest_s, this_host  # noqa: PLC0415 - as above

    with _never_failing():
        if (host := this_host()) is not None and not host.begin(longest_s()):
            typer.echo("drain: what is still open is cut")


@contextmanager
def _never_failing() -> Iterator[None]:
    """Say what went wrong, and go on: a host that stops, stops."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001 - whatever it is
        typer.echo(f"drain: {exc}", err=True)


def main() -> None:
    """Run a command; a known error is a line on standard error and exit status 1."""
    try:
        machine()
    except TidegateError as exc:
        for line in str(exc).splitlines():
            typer.echo(f"tidegate-machine: {line}", err=True)
        sys.exit(1)

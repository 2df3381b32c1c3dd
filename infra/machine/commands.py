"""``tidegate-infra machine``: what the units of the image run."""

import sysconfig
import time
from pathlib import Path
from typing import Annotated

import typer

from infra.aws import Aws, calling
from infra.errors import InfraError
from infra.machine.boot import Boot, LocalHost, leave
from infra.machine.consul import ConsulServer
from infra.machine.files import ETC, Machine
from infra.machine.imds import ADDRESS, Imds
from infra.machine.vault import Vault

machine = typer.Typer(no_args_is_help=True, help="For the units of an instance.")
Metadata = Annotated[str, typer.Option("--metadata", help="The metadata service.")]
StackEnv = Annotated[Path, typer.Option("--stack-env", help="What user-data wrote.")]
_STACK_ENV = Path(ETC / "stack.env")


@machine.command("boot")
def boot(metadata: Metadata = ADDRESS, stack_env: StackEnv = _STACK_ENV) -> None:
    """Bring this machine into its role."""
    made = _boot(metadata, stack_env)
    try:
        made.run()
    except InfraError as exc:
        made.say(f"failed: {exc}")
        raise


@machine.command("leave")
def leave_when_told(metadata: Metadata = ADDRESS, stack_env: StackEnv = _STACK_ENV) -> None:
    """Wait until this Consul server is to be terminated, then let it leave."""
    Imds(metadata).wait_for_the_end()
    made = _boot(metadata, stack_env)
    hook = "leave"
    leave(made, hook)


def _boot(metadata: str, stack_env: Path) -> Boot:
    try:
        told = stack_env.read_text(encoding="utf-8")
    except OSError as exc:
        raise InfraError(f"{stack_env}: {exc.strerror}: user-data has not run") from exc
    found = Imds(metadata).machine(told)
    aws = Aws(found.region)
    return Boot(
        machine=found,
        vault=Vault(aws.client("ssm"), found.stack),
        aws=aws,
        host=LocalHost(),
        consul=ConsulServer(),
        policies=Path(sysconfig.get_path("purelib")) / "agent" / "policies",
        say=Log(aws, found),
    )


class Log:
    """Writes each line to the journal and, best effort, to the stack's log group: a boot that fails can be read."""

    def __init__(self, aws: Aws, machine: Machine) -> None:
        self._aws, self._machine, self._stream = aws, machine, ""

    def __call__(self, line: str) -> None:
        """Write one line."""
        typer.echo(f"{self._machine.node}: {line}", err=True)
        try:
            self._send(line)
        except InfraError as exc:
            typer.echo(f"{self._machine.node}: {exc}", err=True)

    def _send(self, line: str) -> None:
        api, group = self._aws.client("logs"), f"/tidegate/{self._machine.stack}"
        with calling("write to the log group"):
            if not self._stream:
                stream = f"boot/{self._machine.node}/{int(time.time())}"
                api.create_log_stream(logGroupName=group, logStreamName=stream)
                self._stream = stream
            event = {"timestamp": int(time.time() * 1000), "message": line}
            api.put_log_events(logGroupName=group, logStreamName=self._stream, logEvents=[event])

"""``tidegate-machine boot`` and ``leave``: an instance finds out what it is, and does it."""

import time
from pathlib import Path

import typer

from agent.provision.aws.boot import Boot, LocalHost
from agent.provision.aws.boot import leave as leave_cluster
from agent.provision.aws.consul_server import ConsulServer
from agent.provision.aws.files import Machine
from agent.provision.aws.imds import Imds
from agent.provision.aws.parameter_store import Vault
from infra.aws import Aws, calling
from infra.errors import InfraError

LEAVE_HOOK = "leave"


def boot(metadata: str, stack_env: Path) -> None:
    """
    Bring this machine into its role.

    Raises:
        InfraError: it cannot be; the unit tries again.
    """
    made = _boot(metadata, stack_env)
    try:
        made.run()
    except InfraError as exc:
        made.say(f"failed: {exc}")
        raise


def leave(metadata: str, stack_env: Path) -> None:
    """Wait until this Consul server is to be terminated, then let it leave."""
    Imds(metadata).wait_for_the_end()
    leave_cluster(_boot(metadata, stack_env), LEAVE_HOOK)


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

"""``tidegate-machine boot`` and ``leave``: an instance finds out what it is, and does it."""

import asyncio
import os
import time
from collections.abc import Coroutine
from pathlib import Path

import typer

from agent.adapters.aws.ec2 import Ec2
from agent.core.model.errors import FatalError, PermanentError
from agent.provision.aws.boot import FAILURES, Boot, LocalHost
from agent.provision.aws.boot import leave as leave_cluster
from agent.provision.aws.consul_server import ConsulServer
from agent.provision.aws.files import Machine
from agent.provision.aws.instance import find_machine, wait_for_termination
from agent.provision.aws.parameter_store import ParameterStore
from infra.aws import Aws, translate_aws_errors
from infra.errors import InfraError

LEAVE_HOOK = "leave"


def boot(metadata: str, stack_env: Path) -> None:
    """
    Bring this machine into its role.

    Raises:
        TidegateError: it cannot be; the unit tries again.
    """

    async def run(told: str) -> None:
        async with _this_instance(metadata) as ec2:
            made = await _boot(ec2, told)
            try:
                await made.run()
            except FAILURES as exc:
                made.say(f"failed: {exc}")
                raise

    _run(run(_read(stack_env)))


def leave(metadata: str, stack_env: Path) -> None:
    """
    Wait until this Consul server is to be terminated, then let it leave.

    Raises:
        TidegateError: it is not known what is to leave; the unit tries again.
    """

    async def run(told: str) -> None:
        async with _this_instance(metadata) as ec2:
            await wait_for_termination(ec2)
            await leave_cluster(await _boot(ec2, told), LEAVE_HOOK)

    _run(run(_read(stack_env)))


def _run(command: Coroutine[None, None, None]) -> None:
    """Run a command to its end; what the desk's modules raise becomes the agent's error of the same words."""
    try:
        asyncio.run(command)
    except InfraError as exc:
        raise PermanentError(str(exc)) from exc


def _this_instance(metadata: str) -> Ec2:
    """Return this instance; its calls go where those of AWS's own library go."""
    return Ec2(metadata, os.environ.get("AWS_ENDPOINT_URL"))


def _read(stack_env: Path) -> str:
    try:
        return stack_env.read_text(encoding="utf-8")
    except OSError as exc:
        raise FatalError(f"{stack_env}: {exc.strerror}: user-data has not run") from exc


async def _boot(ec2: Ec2, told: str) -> Boot:
    found = await find_machine(ec2, told)
    aws = Aws(found.region)
    return Boot(
        machine=found,
        parameter_store=ParameterStore(aws.client("ssm"), found.stack),
        aws=aws,
        ec2=ec2,
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
        with translate_aws_errors("write to the log group"):
            if not self._stream:
                stream = f"boot/{self._machine.node}/{int(time.time())}"
                api.create_log_stream(logGroupName=group, logStreamName=stream)
                self._stream = stream
            event = {"timestamp": int(time.time() * 1000), "message": line}
            api.put_log_events(logGroupName=group, logStreamName=self._stream, logEvents=[event])

"""This instance: which machine of which stack it is, whether it is to end, and the signal that it is in its role."""

import asyncio
from collections.abc import Awaitable, Callable

from agent.adapters.aws.ec2 import Ec2, Place
from agent.core.model.errors import Ec2UnavailableError, FatalError
from agent.pacing.backoff import Backoff
from agent.provision.aws.files import Machine

ASK_EVERY_S = 5.0
RETRIES, RETRY_FIRST_S, RETRY_MAX_S = 5, 0.5, 8.0
"""
Attempts after the first one, with growing pauses: an update that hears no signal is rolled back, and a hook that
nobody completes holds the group up.
"""


async def find_machine(ec2: Ec2, stack_env: str) -> Machine:
    """
    Return which machine this is.

    Args:
        ec2: this instance.
        stack_env: what user-data wrote: a line ``NAME=value`` for each.

    Raises:
        FatalError: a line is missing.
        Ec2UnavailableError: the metadata service does not answer.
    """
    told = dict(line.split("=", 1) for line in stack_env.splitlines() if "=" in line)
    missing = [name for name in ("STACK", "REGION", "ROLE", "GROUP") if name not in told]
    if missing:
        raise FatalError(f"stack.env does not say {', '.join(missing)}")
    place = await ec2.place()
    return Machine(
        stack=told["STACK"],
        region=told["REGION"],
        role=told["ROLE"],
        group=told["GROUP"],
        instance=place.instance,
        zone=place.zone,
        host=await ec2.host_name(),
        account=await ec2.account(),
    )


async def wait_for_termination(ec2: Ec2, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Return when the instance is to be terminated; a metadata service that does not answer says nothing."""
    while True:
        try:
            if await ec2.termination_notice() is not None:
                return
        except Ec2UnavailableError:
            pass
        await sleep(ASK_EVERY_S)


def place_of(machine: Machine) -> Place:
    """Return where calls about *machine* go."""
    return Place(machine.instance, machine.zone, machine.region)


async def signal_stack(
    ec2: Ec2, machine: Machine, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """
    Tell the stack that *machine* is in its role; again while AWS does not answer, or throttles.

    Raises:
        Ec2RefusedError: AWS refuses, among others as the stack waits for nothing.
        Ec2UnavailableError: AWS still does not answer, or throttles, at the sixth attempt.
    """

    async def signal() -> None:
        await ec2.signal(place_of(machine), machine.stack, machine.group, success=True)

    await _with_retries(signal, sleep)


async def complete_hook(
    ec2: Ec2, machine: Machine, hook: str, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """
    Let the group go on with *machine*, where it is in one; again while AWS does not answer, or throttles.

    Raises:
        Ec2RefusedError: AWS refuses, among others as the hook has ended already.
        Ec2UnavailableError: AWS still does not answer, or throttles, at the sixth attempt.
    """

    async def complete() -> None:
        membership = await ec2.membership(place_of(machine))
        if membership is not None:
            await ec2.complete(place_of(machine), membership.group, hook, "CONTINUE")

    await _with_retries(complete, sleep)


async def _with_retries(call: Callable[[], Awaitable[None]], sleep: Callable[[float], Awaitable[None]]) -> None:
    backoff = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
    for _ in range(RETRIES):
        try:
            return await call()
        except Ec2UnavailableError:
            await sleep(backoff.next())
    return await call()

"""Composition of what an agent does as a cloud instance; nothing of it runs outside a cloud."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

import structlog

from agent.adapters.aws.ec2 import Ec2, Place
from agent.config import Ec2Settings
from agent.core.cloud.asg_hooks import Hook, Patience
from agent.core.model.errors import Ec2UnavailableError
from agent.core.model.report import NodeReport
from agent.runtime.cloud.asg_lifecycle import LOOK_EVERY_S, Belongs, Lifecycle

log = structlog.get_logger()


async def place_of(settings: Ec2Settings) -> Place | None:
    """Return which instance this is; None outside a cloud, and where the metadata service does not answer."""
    if not settings.enabled:
        return None
    async with Ec2(settings.metadata, settings.endpoint) as ec2:
        try:
            return await ec2.place()
        except Ec2UnavailableError as exc:
            log.warning("instance.unknown", error=str(exc))
            return None


async def follow_life(
    settings: Ec2Settings, *, report: Callable[[], NodeReport | None], set_leaving: Callable[[bool], None]
) -> NoReturn:
    """Follow the instance from launch to end, until cancelled."""
    hooks = {Hook.LAUNCH: settings.launch_hook, Hook.LEAVE: settings.leave_hook}
    async with Ec2(settings.metadata, settings.endpoint) as ec2:
        while True:
            place = await _ask(ec2)
            if place is not None:
                break
            await asyncio.sleep(LOOK_EVERY_S)
        await Lifecycle(
            cloud=ec2,
            belongs=Belongs(place, hooks, settings.stack, settings.resource),
            patience=Patience(settings.launch_timeout, settings.leave_timeout),
            report=report,
            set_leaving=set_leaving,
        ).run()
    raise AssertionError("unreachable")


async def _ask(ec2: Ec2) -> Place | None:
    try:
        return await ec2.place()
    except Ec2UnavailableError:
        return None

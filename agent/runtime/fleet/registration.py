"""Keeps an agent without apps registered: a local Consul agent may lose its data."""

import asyncio
from typing import NoReturn

import structlog

from agent.adapters.consul.presence import Presence
from agent.core.host.build_report import Identity
from agent.core.model.errors import TidegateError

log = structlog.get_logger()
AGAIN_EVERY_S = 60.0
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 15.0


async def keep_registered(presence: Presence, identity: Identity) -> NoReturn:
    """Register the agent again and again, until cancelled; a failure is logged once and tried again."""
    pause_s, is_failing = RETRY_FIRST_S, False
    while True:
        try:
            await presence.register_agent(identity)
        except TidegateError as exc:
            if not is_failing:
                log.warning("report.failed", error=str(exc))
            is_failing = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)
            continue
        if is_failing:
            log.info("report.recovered")
        pause_s, is_failing = RETRY_FIRST_S, False
        await asyncio.sleep(AGAIN_EVERY_S)

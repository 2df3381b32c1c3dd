"""Keeps an agent without apps registered: a local Consul agent may lose its data."""

from typing import NoReturn

import structlog

from agent.adapters.consul.presence import Presence
from agent.core.host.build_report import Identity
from agent.core.model.errors import TidegateError
from agent.pacing.backoff import Backoff
from agent.pacing.clock import Clock

log = structlog.get_logger()
AGAIN_EVERY_S = 60.0
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 15.0


async def keep_registered(presence: Presence, identity: Identity, clock: Clock) -> NoReturn:
    """Register the agent again and again, until cancelled; a failure is logged once and tried again."""
    backoff, is_failing = Backoff(RETRY_FIRST_S, RETRY_MAX_S), False
    while True:
        try:
            await presence.register_agent(identity)
        except TidegateError as exc:
            if not is_failing:
                log.warning("report.failed", error=str(exc))
            is_failing = True
            await clock.sleep(backoff.next())
            continue
        if is_failing:
            log.info("report.recovered")
        backoff.reset()
        is_failing = False
        await clock.sleep(AGAIN_EVERY_S)

"""
An agent as a process: one TaskGroup, signals, systemd, order of shutdown.

SIGTERM or SIGINT: stop the loops, write the last report, close. Containers and HAProxy are left as they are:
traffic does not notice an agent that ends. A second signal ends the process at once.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import structlog
from aiohttp import web

from agent import __version__
from agent.adapters.host.systemd import Notifier
from agent.http.serving import listen
from agent.pacing.clock import Clock

log = structlog.get_logger()

Loop = Callable[[], Coroutine[Any, Any, object]]
"""Starts a task that runs until it is cancelled."""


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent put together, and not yet started."""

    does: str
    """The app that it runs, or the apps that it coordinates."""
    api: web.Application
    api_port: int
    loops: Mapping[str, Loop]
    """By the name of the task."""
    clock: Clock
    ticked_at: Callable[[], float]
    """By the clock's monotonic seconds: the last turn of its slowest loop."""
    until_ready: Callable[[], Awaitable[str]]
    """Waits until the agent may be called started; returns the status line for systemd."""
    at_end: Callable[[], Coroutine[Any, Any, None]]
    """What is left to do once the loops have ended."""


class Stopped(Exception):  # noqa: N818 - not an error: the way out of the TaskGroup
    """A signal asked the process to end."""


async def run(compose: Callable[[asyncio.TaskGroup], Agent], notifier: Notifier) -> None:
    """Start what *compose* puts together, and end it in order at the first signal."""
    agent: Agent | None = None
    try:
        async with asyncio.TaskGroup() as group:
            agent = compose(group)
            runner = await listen(agent.api, agent.api_port)
            group.create_task(_until_signal(), name="signals")
            for name, loop in agent.loops.items():
                group.create_task(loop(), name=name)
            if notifier.watchdog_s is not None:
                group.create_task(_watchdog(notifier, agent, notifier.watchdog_s), name="watchdog")
            group.create_task(_serve_api(agent, runner, notifier), name="api")
    except* Stopped:
        notifier.stopping()
        if agent is not None:
            # In a task of its own: in Python before 3.11.4 this one still counts as cancelled by the group above,
            # and a deadline inside it would end as a cancellation.
            async with asyncio.TaskGroup() as last:
                last.create_task(agent.at_end(), name="last report")
        log.info("agent.stopped")


async def _serve_api(agent: Agent, runner: web.AppRunner, notifier: Notifier) -> NoReturn:
    try:
        log.info("agent.started", version=__version__, app=agent.does, api=f"127.0.0.1:{agent.api_port}")
        notifier.ready(await agent.until_ready())
        await asyncio.Event().wait()
        raise AssertionError("an event nobody sets was set")
    finally:
        await runner.cleanup()


async def _until_signal() -> NoReturn:
    """
    Wait for SIGTERM or SIGINT; a second one ends the process at once.

    Raises:
        Stopped: a signal came.
    """
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def stop(number: int) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    await stopped.wait()
    raise Stopped


async def _watchdog(notifier: Notifier, agent: Agent, every_s: float) -> NoReturn:
    """Tell systemd the process is alive while its loops tick."""
    while True:
        if agent.clock.now() - agent.ticked_at() < max(60.0, 2 * every_s):
            notifier.watchdog()
        await agent.clock.sleep(every_s)

"""Composition of the coordinators: beside a host's own loop, or as an agent of their own on a Consul server."""

import asyncio
import os
import time
from functools import partial
from typing import NoReturn

import structlog

from agent import __version__
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.host.journal import boot_id
from agent.adapters.host.systemd import Notifier
from agent.adapters.registry.client import Registries
from agent.config import Settings
from agent.core.host.build_report import Identity
from agent.http.coordination import make_coordinator_app
from agent.http.serving import listen
from agent.instances import place_of
from agent.registration import keep_registered, make_consul
from agent.runtime.fleet.coordinator import Coordinator, CoordinatorView
from agent.runtime.fleet.leader import Leader
from agent.runtime.wake import Wake
from agent.signals import Stopped, until_signal

log = structlog.get_logger()


async def new_identity(settings: Settings) -> Identity:
    """Name this run of the agent, boot id and start, and say where it is."""
    run = f"{boot_id()}.{time.time_ns() // 1_000_000}"
    place = await place_of(settings.ec2)
    return Identity(settings.node, run, __version__, *((place.zone, place.instance) if place else ()))


def make_coordinators(settings: Settings, consul: ConsulClient, identity: Identity) -> tuple[Coordinator, ...]:
    """Make one coordinator for each app that the settings name."""
    registries = Registries(settings.docker.config_file, settings.docker.insecure_registries)
    made = []
    for app in settings.coordinated:
        wake = Wake()
        leader = Leader(consul, app, settings.node, identity.instance, on_change=partial(wake.call, "lease"))
        made.append(Coordinator(consul, leader, registries.digest, wake))
    return tuple(made)


def views_of(coordinators: tuple[Coordinator, ...]) -> tuple[CoordinatorView, ...]:
    """Return what each of them does now."""
    return tuple(coordinator.view for coordinator in coordinators)


async def run_coordinator(settings: Settings) -> None:
    """
    Run an agent without apps until a signal: it needs Consul, and neither Docker nor HAProxy.

    Raises:
        FatalError: a setting cannot be used (port taken, bad certificate).
    """
    notifier, identity = Notifier.from_environ(os.environ, os.getpid()), await new_identity(settings)
    async with make_consul(settings.consul) as consul:
        coordinators = make_coordinators(settings, consul, identity)

        def ticked_at() -> float:
            return min(coordinator.ticked_at for coordinator in coordinators)

        runner = await listen(make_coordinator_app(lambda: views_of(coordinators), ticked_at), settings.api.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(until_signal(), name="signals")
                group.create_task(keep_registered(consul, settings, identity), name="registration")
                for coordinator in coordinators:
                    group.create_task(coordinator.run(), name=f"coordinator of {coordinator.app}")
                if notifier.watchdog_s is not None:
                    group.create_task(_watchdog(notifier, coordinators, notifier.watchdog_s), name="watchdog")
                names = ", ".join(settings.coordinated)
                log.info("agent.started", version=__version__, app=names, api=f"127.0.0.1:{settings.api.port}")
                notifier.ready(f"coordinates {names}")
        except* Stopped:
            notifier.stopping()
            log.info("agent.stopped")
        finally:
            await runner.cleanup()


async def _watchdog(notifier: Notifier, coordinators: tuple[Coordinator, ...], every_s: float) -> NoReturn:
    while True:
        if all(time.monotonic() - coordinator.ticked_at < max(60.0, 2 * every_s) for coordinator in coordinators):
            notifier.watchdog()
        await asyncio.sleep(every_s)

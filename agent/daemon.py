"""
The composition root: the one place that puts an agent together, each part with its own section of the settings.

:func:`compose_host` makes the agent of a host with an app, :func:`compose_coordinator` one without apps.
"""

import asyncio
import os
import time
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import structlog

from agent import __version__
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.presence import Presence
from agent.adapters.consul.watch import Pace, watch
from agent.adapters.docker.adapter import DockerAdapter
from agent.adapters.host.disk import disk_usage
from agent.adapters.host.journal import Journal, boot_id
from agent.adapters.host.probe import Prober
from agent.adapters.host.systemd import Notifier
from agent.config import Ec2Settings, Settings
from agent.core.cloud.asg_hooks import Hook, Timeouts
from agent.core.host.build_report import HostView, Identity, report_of, with_times
from agent.core.host.memory import Memory
from agent.core.model.keys import Known, Outcome
from agent.core.model.names import NodeName
from agent.core.model.report import NodeReport
from agent.factories import (
    make_cloud,
    make_consul,
    make_docker,
    make_journal,
    make_proxy,
    make_registries,
    prepare_state_dir,
)
from agent.http.api import Source, make_app
from agent.http.coordination import make_coordinator_app
from agent.pacing.clock import Clock, SystemClock
from agent.process import Agent, run
from agent.runtime.cloud.asg_lifecycle import InstanceGroup, Lifecycle, follow_instance, place_of
from agent.runtime.fleet.coordinator import Coordinator
from agent.runtime.fleet.leader import Leader
from agent.runtime.fleet.registration import keep_registered
from agent.runtime.host.event_sources import follow_docker, follow_haproxy
from agent.runtime.host.executor import BeforeAction, Executor, go_on
from agent.runtime.host.jobs import Jobs
from agent.runtime.host.observer import Observer
from agent.runtime.host.reconciler import BootPolicy, Reconciler
from agent.runtime.host.reporter import Reporter
from agent.runtime.wake import WakeSignal

log = structlog.get_logger()
LAST_REPORT_S = 1.5


@dataclass(frozen=True, slots=True)
class Outside:
    """What the agent works with, opened before it is put together and closed after it has ended."""

    consul: ConsulClient
    notifier: Notifier
    identity: Identity
    clock: Clock = field(default_factory=SystemClock)


async def run_agent(settings: Settings, *, before_action: BeforeAction = go_on) -> None:
    """
    Run until a signal.

    Args:
        settings: of this host. Without apps it only coordinates, and needs neither Docker nor HAProxy.
        between: called before each action and after the last of a plan; fault tests end the process there.

    The API's port is taken before the loops begin: a second agent on one host ends there. systemd is told READY
    when the API answers and the host was looked at once, whatever of Consul, Docker and HAProxy is away then.

    Raises:
        FatalError: a setting cannot be used (port taken, state directory not writable, bad certificate).
    """
    notifier = Notifier.from_environ(os.environ, os.getpid())
    if settings.apps:
        prepare_state_dir(settings.state_dir)
    async with make_consul(settings.consul) as consul:
        identity = await new_identity(settings.node, settings.ec2)
        outside = Outside(consul, notifier, identity)
        if not settings.apps:
            await run(lambda _: compose_coordinator(settings, outside), notifier)
            return
        async with make_docker(settings.docker, settings.app, settings.node) as docker:
            await run(lambda group: compose_host(settings, outside, docker, group, before_action), notifier)


async def new_identity(node: NodeName, ec2: Ec2Settings) -> Identity:
    """Name this run of the agent, boot id and start, and say where it is."""
    run = f"{boot_id()}.{time.time_ns() // 1_000_000}"
    place = None
    if ec2.enabled:
        async with make_cloud(ec2) as cloud:
            place = await place_of(cloud)
    return Identity(node, run, __version__, *((place.zone, place.instance) if place else ()))


def compose_coordinator(settings: Settings, outside: Outside) -> Agent:
    """Put an agent without apps together."""
    coordinators = _coordinators(settings, outside)
    presence = _presence(settings, outside)

    def ticked_at() -> float:
        return min(coordinator.ticked_at for coordinator in coordinators)

    async def until_ready() -> str:
        return f"coordinates {', '.join(settings.coordinated)}"

    async def at_end() -> None:
        """Leave nothing: a session ends with its leader."""

    return Agent(
        does=", ".join(settings.coordinated),
        api=make_coordinator_app(lambda: tuple(each.view for each in coordinators), ticked_at, outside.clock),
        api_port=settings.api.port,
        loops={
            "registration": partial(keep_registered, presence, outside.identity, outside.clock),
            **{f"coordinator of {each.app}": each.run for each in coordinators},
        },
        clock=outside.clock,
        ticked_at=ticked_at,
        until_ready=until_ready,
        at_end=at_end,
    )


def compose_host(
    settings: Settings, outside: Outside, docker: DockerAdapter, group: asyncio.TaskGroup, before_action: BeforeAction
) -> Agent:
    """Put the agent of a host together; *group* owns the jobs and the health probes that it begins."""
    app, wake, looked, clock = settings.app, WakeSignal(), asyncio.Event(), outside.clock
    proxy = make_proxy(settings.haproxy, app, settings.state_dir)
    proxy.ensure_maps()
    presence = _presence(settings, outside)
    reporter = Reporter(partial(presence.write_report, app), partial(presence.register_host, app), clock)
    jobs = Jobs(app, docker, group, wake.call, clock)
    prober = Prober(group, lambda: wake.call("probe"), clock)
    data_root, reserve_bytes = settings.docker.data_root, settings.docker.disk_reserve_bytes
    observer = Observer(docker, proxy, prober, jobs, lambda: disk_usage(data_root, reserve_bytes), clock)
    journal = make_journal(settings.haproxy, app, settings.state_dir, clock)
    reconciler = Reconciler(
        app=app,
        node=settings.node,
        boot_policy=BootPolicy(settings.boot_wait, settings.journal_max_age),
        observer=observer,
        executor=Executor(proxy, jobs, before_action),
        prober=prober,
        journal=journal,
        wake=wake,
        on_view=partial(_show, outside, reporter, looked),
        memory=_remembered(journal),
        clock=clock,
    )
    coordinators = _coordinators(settings, outside)

    async def until_ready() -> str:
        await looked.wait()
        return reporter.latest.summary if reporter.latest else ""

    return Agent(
        does=app.name,
        api=make_app(_source(reconciler, reporter, coordinators, clock)),
        api_port=settings.api.port,
        loops={
            "reconciler": reconciler.run,
            "consul watch": partial(
                watch, outside.consul, app.name, partial(_take, reconciler, reporter), pace=Pace(clock=clock)
            ),
            "docker events": partial(follow_docker, docker, observer, wake, clock),
            "haproxy watch": partial(follow_haproxy, proxy.worker, wake, clock),
            "reporter": reporter.run,
            **{f"coordinator of {each.app}": each.run for each in coordinators},
            **(
                {"instance life-cycle": partial(_follow, settings.ec2, reconciler, reporter, clock)}
                if settings.ec2.enabled
                else {}
            ),
        },
        clock=clock,
        ticked_at=lambda: reconciler.ticked_at,
        until_ready=until_ready,
        at_end=partial(reporter.last, LAST_REPORT_S),
    )


def _presence(settings: Settings, outside: Outside) -> Presence:
    return Presence(outside.consul, settings.node, settings.api.port, is_coordinator=bool(settings.coordinated))


def _coordinators(settings: Settings, outside: Outside) -> tuple[Coordinator, ...]:
    """Make one coordinator for each app that the settings name."""
    registries, made = make_registries(settings.docker), []
    for app in settings.coordinated:
        wake = WakeSignal()
        on_change = partial(wake.call, "lease")
        leader = Leader(outside.consul, app, settings.node, outside.identity.instance, on_change, clock=outside.clock)
        made.append(Coordinator(outside.consul, leader, registries.digest, wake, outside.clock))
    return tuple(made)


def _remembered(journal: Journal) -> Memory:
    loaded = journal.load()
    if loaded.problem:
        log.error("journal.unusable", problem=loaded.problem)
    return loaded.memory


def _source(reconciler: Reconciler, reporter: Reporter, coordinators: tuple[Coordinator, ...], clock: Clock) -> Source:
    return Source(
        report=lambda: reporter.latest,
        view=lambda: reconciler.view,
        preview=reconciler.preview,
        ticked_at=lambda: reconciler.ticked_at,
        set_leaving=lambda leaving: reconciler.set_leaving(leaving=leaving),
        clock=clock,
        coordination=lambda: tuple(each.view for each in coordinators),
    )


def _show(outside: Outside, reporter: Reporter, looked: asyncio.Event, view: HostView) -> None:
    """Turn what a tick saw into the report, and its summary into systemd's status line."""
    before = reporter.latest
    report = with_times(report_of(view, outside.identity), before, outside.clock.wall())
    reporter.publish(report)
    if before is None or before.summary != report.summary:
        outside.notifier.status(report.summary)
    looked.set()


def _take(reconciler: Reconciler, reporter: Reporter, outcome: Outcome) -> None:
    """Hand the reconciler what Consul said; after an outage the report is written anew."""
    reason = getattr(outcome, "reason", None)
    log.info("desired.read", app=reconciler.app.name, outcome=type(outcome).__name__.lower(), reason=reason)
    if isinstance(outcome, Known) and not isinstance(reconciler.outcome, Known):
        reporter.forget()
    reconciler.read(outcome)


async def _follow(ec2: Ec2Settings, reconciler: Reconciler, reporter: Reporter, clock: Clock) -> NoReturn:
    """Follow the cloud instance from launch to end."""
    hooks = {Hook.LAUNCH: ec2.launch_hook, Hook.LEAVE: ec2.leave_hook}

    def latest() -> NodeReport | None:
        return reporter.latest

    async with make_cloud(ec2) as cloud:
        await follow_instance(
            cloud,
            lambda place: Lifecycle(
                cloud=cloud,
                instance_group=InstanceGroup(place, hooks, ec2.stack, ec2.resource),
                timeouts=Timeouts(ec2.launch_timeout, ec2.leave_timeout),
                report=latest,
                set_leaving=lambda leaving: reconciler.set_leaving(leaving=leaving),
                clock=clock,
            ),
            clock,
        )
    raise AssertionError("unreachable")

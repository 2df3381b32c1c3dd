"""
The composition root: the only place that names concrete adapters. One TaskGroup, signals, order of shutdown.

SIGTERM or SIGINT: stop the loops, write the last report, close. Containers and HAProxy are left as they are:
traffic does not notice an agent that ends. A second signal ends the process at once.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from typing import NoReturn

import structlog
from aiohttp import web

from agent import __version__
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.watch import watch
from agent.adapters.docker.adapter import DockerAdapter
from agent.adapters.haproxy.files import ProxyPaths
from agent.adapters.haproxy.runtime_api import HaproxySocket
from agent.adapters.host.disk import look_at_disk
from agent.adapters.host.journal import Journal
from agent.adapters.host.probe import Prober
from agent.adapters.host.systemd import Notifier
from agent.config import Settings
from agent.coordinators import make_coordinators, new_identity, run_coordinator, views_of
from agent.core.host.build_report import HostView, Identity, report_of, with_times
from agent.core.model.errors import FatalError
from agent.core.model.keys import Known, Outcome
from agent.http.api import Source, make_app
from agent.http.serving import listen
from agent.instances import follow_life
from agent.provision.haproxy_config import ProxyOptions
from agent.registration import make_consul, register_host, write_report
from agent.runtime.fleet.coordinator import Coordinator
from agent.runtime.host.event_sources import follow_docker, follow_haproxy
from agent.runtime.host.executor import Between, Executor, go_on
from agent.runtime.host.jobs import Jobs
from agent.runtime.host.observer import Observer
from agent.runtime.host.reconciler import Reconciler, Trust
from agent.runtime.host.reporter import Reporter
from agent.runtime.wake import Wake
from agent.signals import Stopped, until_signal

log = structlog.get_logger()
LAST_REPORT_S = 1.5


@dataclass(frozen=True, slots=True)
class _Outside:
    """What outlives the tasks."""

    settings: Settings
    consul: ConsulClient
    docker: DockerAdapter
    reporter: Reporter
    notifier: Notifier
    identity: Identity
    coordinators: tuple[Coordinator, ...]


@dataclass(frozen=True, slots=True)
class _Loop:
    """What the tasks share."""

    proxy: HaproxySocket
    reconciler: Reconciler
    wake: Wake
    looked: asyncio.Event
    """Set once the host was looked at."""


async def run_agent(settings: Settings, *, between: Between = go_on) -> None:
    """
    Run until a signal.

    Args:
        settings: of this host.
        between: called before each action and after the last of a plan; fault tests end the process there.

    The API's port is taken before the loops begin: a second agent on one host ends there. systemd is told READY
    when the API answers and the host was looked at once, whatever of Consul, Docker and HAProxy is away then.

    Raises:
        FatalError: a setting cannot be used (port taken, state directory not writable, bad certificate).
    """
    if not settings.apps:
        await run_coordinator(settings)
        return
    notifier = Notifier.from_environ(os.environ, os.getpid())
    prepare_state_dir(settings)
    async with (
        make_consul(settings.consul) as consul,
        DockerAdapter(settings.docker.socket, settings.app, settings.node, settings.docker.config_file) as docker,
    ):
        reporter = Reporter(
            write=lambda report: write_report(consul, settings, report),
            register=lambda report: register_host(consul, settings, report),
        )
        identity = await new_identity(settings)
        coordinators = make_coordinators(settings, consul, identity)
        try:
            async with asyncio.TaskGroup() as group:
                outside = _Outside(settings, consul, docker, reporter, notifier, identity, coordinators)
                loop = _compose(outside, group, between)
                runner = await _listen(outside, loop.reconciler)
                _start(outside, loop, group)
                group.create_task(_serve_api(outside, loop, runner), name="api")
        except* Stopped:
            notifier.stopping()
            # In a task of its own: in Python before 3.11.4 this one still counts as cancelled by the group above,
            # and a deadline inside it would end as a cancellation.
            async with asyncio.TaskGroup() as last:
                last.create_task(reporter.last(LAST_REPORT_S), name="last report")
            log.info("agent.stopped")


def prepare_state_dir(settings: Settings) -> None:
    """
    Create the state directory where it is missing, and try to write in it.

    Raises:
        FatalError: it cannot be written.
    """
    try:
        settings.state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        probe = settings.state_dir / ".writable"
        probe.write_text("", encoding="ascii")
        probe.unlink()
    except OSError as exc:
        raise FatalError(f"state_dir: {settings.state_dir} cannot be written: {exc.strerror}") from exc


def proxy_paths(settings: Settings) -> ProxyPaths:
    """Return where HAProxy and the agent meet."""
    haproxy = settings.haproxy
    return ProxyPaths(haproxy.socket, settings.state_dir, haproxy.server_state_file, haproxy.master_socket)


def proxy_options(settings: Settings) -> ProxyOptions:
    """Return what the settings say of HAProxy's own configuration."""
    haproxy = settings.haproxy
    return ProxyOptions(
        ops_port=haproxy.ops_port,
        hard_stop_after_s=settings.hard_stop_after_s,
        maxconn=haproxy.maxconn,
        user=haproxy.user,
        group=haproxy.group,
        socket_group=haproxy.socket_group,
    )


def _compose(outside: _Outside, group: asyncio.TaskGroup, between: Between) -> _Loop:
    settings, docker = outside.settings, outside.docker
    app, node, images = settings.app, settings.node, settings.docker
    wake, looked = Wake(), asyncio.Event()
    proxy = HaproxySocket(app, proxy_paths(settings))
    proxy.ensure_maps()
    jobs = Jobs(app, docker, group, wake.call)
    prober = Prober(group, lambda: wake.call("probe"))
    mark_file = settings.haproxy.server_state_file.with_name(f"{settings.haproxy.server_state_file.name}.boot")
    journal = Journal(settings.state_dir / f"{app.name}.journal.json", mark_file=mark_file)

    def show(view: HostView) -> None:
        before = outside.reporter.latest
        report = with_times(report_of(view, outside.identity), before, time.time())
        outside.reporter.publish(report)
        if before is None or before.summary != report.summary:
            outside.notifier.status(report.summary)
        looked.set()

    loaded = journal.load()
    if loaded.problem:
        log.error("journal.unusable", problem=loaded.problem)
    reconciler = Reconciler(
        app=app,
        node=node,
        trust=Trust(settings.boot_wait, settings.journal_max_age),
        observer=Observer(
            docker, proxy, prober, jobs, lambda: look_at_disk(images.data_root, images.disk_reserve_bytes)
        ),
        executor=Executor(proxy, jobs, between),
        prober=prober,
        journal=journal,
        wake=wake,
        on_view=show,
        memory=loaded.memory,
    )
    return _Loop(proxy, reconciler, wake, looked)


def _start(outside: _Outside, loop: _Loop, group: asyncio.TaskGroup) -> None:
    app, reconciler = outside.settings.app, loop.reconciler

    def read(outcome: Outcome) -> None:
        log.info(
            "desired.read",
            app=app.name,
            outcome=type(outcome).__name__.lower(),
            reason=getattr(outcome, "reason", None),
        )
        if isinstance(outcome, Known) and not isinstance(reconciler.outcome, Known):
            outside.reporter.forget()
        reconciler.read(outcome)

    group.create_task(until_signal(), name="signals")
    group.create_task(reconciler.run(), name="reconciler")
    group.create_task(watch(outside.consul, app.name, read), name="consul watch")
    group.create_task(follow_docker(outside.docker, reconciler.observer, loop.wake), name="docker events")
    group.create_task(follow_haproxy(loop.proxy.worker, loop.wake), name="haproxy watch")
    group.create_task(outside.reporter.run(), name="reporter")
    for coordinator in outside.coordinators:
        group.create_task(coordinator.run(), name=f"coordinator of {coordinator.app}")
    if outside.settings.ec2.enabled:
        life = follow_life(
            outside.settings.ec2,
            report=lambda: outside.reporter.latest,
            set_leaving=lambda leaving: reconciler.set_leaving(leaving=leaving),
        )
        group.create_task(life, name="instance life-cycle")
    if outside.notifier.watchdog_s is not None:
        group.create_task(_watchdog(outside.notifier, reconciler, outside.notifier.watchdog_s), name="watchdog")


async def _listen(outside: _Outside, reconciler: Reconciler) -> web.AppRunner:
    source = Source(
        report=lambda: outside.reporter.latest,
        view=lambda: reconciler.view,
        preview=reconciler.preview,
        ticked_at=lambda: reconciler.ticked_at,
        set_leaving=lambda leaving: reconciler.set_leaving(leaving=leaving),
        coordination=lambda: views_of(outside.coordinators),
    )
    return await listen(make_app(source), outside.settings.api.port)


async def _serve_api(outside: _Outside, loop: _Loop, runner: web.AppRunner) -> NoReturn:
    settings = outside.settings
    try:
        log.info("agent.started", version=__version__, app=settings.app.name, api=f"127.0.0.1:{settings.api.port}")
        await loop.looked.wait()
        report = outside.reporter.latest
        outside.notifier.ready(report.summary if report else "")
        await asyncio.Event().wait()
        raise AssertionError("an event nobody sets was set")
    finally:
        await runner.cleanup()


async def _watchdog(notifier: Notifier, reconciler: Reconciler, every_s: float) -> NoReturn:
    """Tell systemd the process is alive while its loop ticks."""
    while True:
        if time.monotonic() - reconciler.ticked_at < max(60.0, 2 * every_s):
            notifier.watchdog()
        await asyncio.sleep(every_s)

"""Prometheus metrics, collected from the last tick: nothing is counted beside the loop."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from agent.core.host.build_report import HostView
from agent.core.host.observed import Unavailable
from agent.core.model.keys import Known
from agent.core.model.record import Phase
from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase
from agent.runtime.fleet.coordinator import CoordinatorView

Samples = Iterable[tuple[Mapping[str, str], float]]
_SLOT = ("app", "slot")
_REASON_CHARS = 200
# A number that is a word of its own: a time, a size, an attempt. HTTP statuses and exit codes say what is wrong.
_COUNT = re.compile(r"(?<![\w.:/@-])(?<!code )(?<!answered )\d[\w.,]*(?: ?%| [kKMGT]i?B\b)?")


def render(
    view: HostView | None, report: NodeReport | None, coordination: Sequence[CoordinatorView], tick_age_s: float
) -> str:
    """Return all metrics in the text format; names end in their unit where they have one."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Tick(view, report, tick_age_s))
    registry.register(_Coordination(coordination))
    return generate_latest(registry).decode()


def render_coordination(coordination: Sequence[CoordinatorView], tick_age_s: float) -> str:
    """Return the metrics of an agent without apps."""
    return render(None, None, coordination, tick_age_s)


class _Coordination(Collector):
    """What an agent coordinates."""

    def __init__(self, views: Sequence[CoordinatorView]) -> None:
        self._views = views

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every family; none where nothing is coordinated."""
        if not self._views:
            return
        leads: Samples = [({"app": view.app}, view.is_leading) for view in self._views]
        yield _family("tidegate_coordinator_leading", "Whether this agent coordinates the app.", ("app",), leads)
        problems: Samples = [({"app": view.app}, bool(view.problem)) for view in self._views]
        yield _family("tidegate_coordinator_hindered", "Whether something keeps it from acting.", ("app",), problems)
        leading = [view for view in self._views if view.is_leading and view.record is not None]
        generations = [({"app": view.app}, view.record.generation) for view in leading if view.record]
        yield _family("tidegate_rollout_generation", "Number of the last rollout.", ("app",), generations)
        phases = [
            ({"app": view.app, "phase": str(phase)}, view.record.phase is phase)
            for view in leading
            for phase in Phase
            if view.record
        ]
        yield _family("tidegate_rollout_phase", "1 for the phase of the last rollout.", ("app", "phase"), phases)
        ages = [({"app": view.app}, view.phase_age_s) for view in leading if view.phase_age_s is not None]
        text = "Time since the last rollout entered its phase."
        yield _family("tidegate_rollout_phase_age_seconds", text, ("app",), ages)
        waits = [({"app": view.app}, len(view.waits)) for view in leading]
        yield _family("tidegate_rollout_waits", "Things the rollout waits for.", ("app",), waits)


class _Tick(Collector):
    """One tick as Prometheus sees it; each scrape has a registry and a collector of its own."""

    def __init__(self, view: HostView | None, report: NodeReport | None, tick_age_s: float) -> None:
        self._view = view
        self._report = report
        self._tick_age_s = tick_age_s

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every family."""
        age: Samples = [({}, self._tick_age_s)]
        yield _family("tidegate_tick_age_seconds", "Time since the last look at the host.", (), age)
        if self._view is None or self._report is None:
            return
        yield from _host(self._view, self._report)
        yield from _slots(self._view.app.name, self._report)
        yield from _proxy(self._view)
        yield from _failures(self._view)


def _host(view: HostView, report: NodeReport) -> Iterator[GaugeMetricFamily]:
    app = {"app": view.app.name}
    text = "Whether load balancers are told that the host is ready."
    yield _family("tidegate_ready", text, ("app",), [(app, report.is_ready)])
    systems = {
        "consul": isinstance(view.outcome, Known),
        "docker": not isinstance(view.observed.containers, Unavailable),
        "haproxy": view.proxy is not None,
    }
    up = [({**app, "system": system}, answered) for system, answered in systems.items()]
    yield _family("tidegate_system_up", "Whether a system the agent needs answered.", ("app", "system"), up)
    reasons = dict.fromkeys(_lasting(text) for text in (report.error, *report.notes) if text)
    notes = [({**app, "reason": reason}, 1.0) for reason in reasons]
    yield _family("tidegate_note_info", "1 for what the host has to say, numbers left out.", ("app", "reason"), notes)


def _slots(app: str, report: NodeReport) -> Iterator[GaugeMetricFamily]:
    slots = {slot: {"app": app, "slot": str(slot)} for slot in report.slots}
    phases = [
        ({**slots[slot], "phase": str(phase)}, shown.phase is phase)
        for slot, shown in report.slots.items()
        for phase in SlotPhase
    ]
    yield _family("tidegate_slot_phase", "1 for the phase each slot is in.", (*_SLOT, "phase"), phases)
    waiting = [(slots[slot], bool(shown.reason)) for slot, shown in report.slots.items()]
    yield _family("tidegate_slot_waiting", "1 while a slot waits for something.", _SLOT, waiting)
    reasons = [
        ({**slots[slot], "reason": _lasting(shown.reason)}, 1.0) for slot, shown in report.slots.items() if shown.reason
    ]
    yield _family(
        "tidegate_slot_wait_info", "1 for what a slot waits for, numbers left out.", (*_SLOT, "reason"), reasons
    )
    releases = [
        ({**slots[slot], "release": shown.release, "image": shown.image}, 1.0)
        for slot, shown in report.slots.items()
        if shown.release
    ]
    yield _family(
        "tidegate_slot_release_info", "1 for the release in each slot.", (*_SLOT, "release", "image"), releases
    )


def _proxy(view: HostView) -> Iterator[GaugeMetricFamily]:
    app, proxy = view.app.name, view.proxy
    if proxy is None:
        return
    servers = [({"app": app, "slot": str(slot)}, server) for slot, server in proxy.servers.items()]
    opened = [(slot, server.open_requests + server.queued) for slot, server in servers]
    yield _family("tidegate_slot_open_requests", "Open and queued requests on a slot.", _SLOT, opened)
    ages = [(slot, server.last_request_age_s) for slot, server in servers]
    yield _family("tidegate_slot_last_request_age_seconds", "Time since a slot got its last request.", _SLOT, ages)
    if proxy.old_workers is not None:
        old = [({"app": app}, proxy.old_workers)]
        yield _family("tidegate_haproxy_old_workers", "HAProxy workers of before a reload.", ("app",), old)


def _failures(view: HostView) -> Iterator[GaugeMetricFamily]:
    app, memory = view.app.name, view.plan.memory
    attempts = sum(failure.attempts for failure in memory.failures.values())
    text = "Failed attempts at the releases wanted now."
    yield _family("tidegate_failed_attempts", text, ("app",), [({"app": app}, attempts)])
    restarts = [({"app": app, "slot": str(slot)}, known.restarts) for slot, known in memory.slots.items()]
    text = "Starts of a container that died, since it last ran a minute."
    yield _family("tidegate_slot_restarts", text, _SLOT, restarts)


def _lasting(reason: str) -> str:
    """Return a reason as a label: without times that pass, each of which would be a new series."""
    return _COUNT.sub("N", reason)[:_REASON_CHARS]


def _family(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric([values[label] for label in labels], float(value))
    return family

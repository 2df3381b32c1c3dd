"""Prometheus metrics in the text format, rendered from the last tick: nothing is counted beside the loop."""

from collections.abc import Iterable, Mapping

from agent.core.keys import Known
from agent.core.observed import Unavailable
from agent.core.plan import SlotPhase
from agent.core.report import HostView, NodeReport


def render(view: HostView | None, report: NodeReport | None, tick_age_s: float) -> str:
    """Return all metrics; names end in their unit where they have one."""
    lines = _family("tidegate_tick_age_seconds", "Time since the last look at the host.", [({}, tick_age_s)])
    if view is None or report is None:
        return "".join(lines)
    app = {"app": view.app.name}
    lines += _family(
        "tidegate_ready", "Whether load balancers are told that the host is ready.", [(app, report.is_ready)]
    )
    lines += _family(
        "tidegate_system_up",
        "Whether a system the agent needs answered.",
        [
            ({**app, "system": "consul"}, isinstance(view.outcome, Known)),
            ({**app, "system": "docker"}, not isinstance(view.observed.containers, Unavailable)),
            ({**app, "system": "haproxy"}, view.proxy is not None),
        ],
    )
    lines += _family(
        "tidegate_slot_phase",
        "1 for the phase each slot is in.",
        [
            ({**app, "slot": slot, "phase": phase}, shown.phase is phase)
            for slot, shown in report.slots.items()
            for phase in SlotPhase
        ],
    )
    lines += _family(
        "tidegate_slot_waiting",
        "1 for what a slot waits for, in words.",
        [({**app, "slot": slot, "reason": shown.reason}, 1) for slot, shown in report.slots.items() if shown.reason],
    )
    lines += _family(
        "tidegate_slot_release_info",
        "1 for the release in each slot.",
        [
            ({**app, "slot": slot, "release": shown.release, "image": shown.image}, 1)
            for slot, shown in report.slots.items()
            if shown.release
        ],
    )
    return "".join(lines + _proxy(view, app) + _failures(view, app))


def _proxy(view: HostView, app: Mapping[str, str]) -> list[str]:
    proxy = view.proxy
    if proxy is None:
        return []
    servers = proxy.servers.items()
    lines = _family(
        "tidegate_slot_open_requests",
        "Open and queued requests on a slot.",
        [({**app, "slot": slot}, server.open_requests + server.queued) for slot, server in servers],
    )
    lines += _family(
        "tidegate_slot_last_request_age_seconds",
        "Time since a slot got its last request.",
        [({**app, "slot": slot}, server.last_request_age_s) for slot, server in servers],
    )
    if proxy.old_workers is not None:
        lines += _family(
            "tidegate_haproxy_old_workers", "HAProxy workers of before a reload.", [(app, proxy.old_workers)]
        )
    return lines


def _failures(view: HostView, app: Mapping[str, str]) -> list[str]:
    attempts = sum(failure.attempts for failure in view.plan.memory.failures.values())
    restarts = [({**app, "slot": slot}, known.restarts) for slot, known in view.plan.memory.slots.items()]
    return [
        *_family("tidegate_failed_attempts", "Failed attempts at the releases wanted now.", [(app, attempts)]),
        *_family("tidegate_slot_restarts", "Starts of a container that died, since it last ran a minute.", restarts),
    ]


def _family(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> list[str]:
    lines = [f"# HELP {name} {text}\n", f"# TYPE {name} gauge\n"]
    for labels, value in samples:
        shown = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
        lines.append(f"{name}{{{shown}}} {float(value):g}\n" if shown else f"{name} {float(value):g}\n")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

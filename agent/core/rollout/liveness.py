"""
Track how long each host has been absent and how long its serving release has been down.

Pure: the watcher passes its own monotonic time in, and keeps what comes out. A watcher that has just begun has seen
nobody go: after a takeover hosts are lost ``lost_after`` later, never earlier.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.core.model.names import NodeName
from agent.core.model.report import NodeReport
from agent.core.rollout.fleet import Host


@dataclass(frozen=True, slots=True)
class Liveness:
    """Times at which something was first seen, by host; monotonic seconds of the watcher."""

    gone: Mapping[NodeName, float] = field(default_factory=dict)
    unwell: Mapping[tuple[NodeName, str], float] = field(default_factory=dict)
    """By host and release: what was wrong with the release before does not count."""


def track_liveness(
    before: Liveness, live: Mapping[NodeName, str], reports: Mapping[NodeName, NodeReport], now: float
) -> tuple[Liveness, dict[NodeName, Host]]:
    """
    Put catalog and reports together.

    Args:
        before: of the look before this one.
        live: instance ids of the agents that the catalog calls alive.
        reports: last reports of all hosts.
        now: monotonic seconds.

    Returns: what to remember, and the hosts: those that live, and those of which there is a report.
    """
    names = sorted({*live, *reports})
    gone = {node: before.gone.get(node, now) for node in names if node not in live}
    hosts = {
        node: Host(
            node,
            instance=live.get(node, ""),
            report=reports.get(node),
            gone_s=now - gone[node] if node in gone else None,
        )
        for node in names
    }
    unwell = {}
    for node, host in hosts.items():
        if (serving := host.serving) is not None and not serving.is_up:
            since = unwell[node, serving.release] = before.unwell.get((node, serving.release), now)
            hosts[node] = replace(host, unwell_s=now - since)
    return Liveness(gone, unwell), hosts

"""
Since when a host has not been seen, or its new visitors' release has not been up: what only a watcher can tell.

Pure: the watcher passes its own monotonic time in, and keeps what comes out. A watcher that has just begun has seen
nobody go: after a takeover hosts are lost ``lost_after`` later, never earlier.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.names import NodeName
from agent.core.report import NodeReport
from agent.core.rollout.fleet import Host


@dataclass(frozen=True, slots=True)
class Sightings:
    """Times at which something was first seen, by host; monotonic seconds of the watcher."""

    gone: Mapping[NodeName, float] = field(default_factory=dict)
    unwell: Mapping[NodeName, float] = field(default_factory=dict)


def sight(
    before: Sightings, live: Mapping[NodeName, str], reports: Mapping[NodeName, NodeReport], now: float
) -> tuple[Sightings, dict[NodeName, Host]]:
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
    ill = (host for host in hosts.values() if host.serving is not None and not host.serving.is_up)
    unwell = {host.node: before.unwell.get(host.node, now) for host in ill}
    for node, since in unwell.items():
        known = hosts[node]
        hosts[node] = Host(node, known.instance, known.report, known.gone_s, now - since)
    return Sightings(gone, unwell), hosts

"""``tidegate nodes``: who is there, by the catalog and by the reports, also those that only coordinate."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from agent.adapters.consul.fleet_snapshot import FleetSnapshot
from agent.cli.views.columns import columns
from agent.cli.views.text import clean
from agent.core.model.names import NodeName


@dataclass(frozen=True, slots=True)
class Node:
    """One agent, or a report without one."""

    node: str
    zone: str
    address: str
    agent: str
    """Consul's word for its check, or ``not registered``."""
    version: str
    role: str
    """``host``, ``coordinator``, both, or neither."""
    report: str
    """``current``, ``from a previous boot of its agent`` or ``missing``; empty for an agent that writes none."""
    acted_on: str
    is_ready: bool | None
    is_leaving: bool | None


def nodes_of(snapshot: FleetSnapshot) -> tuple[Node, ...]:
    """Put catalog and reports together, by name; agents of other apps that do not coordinate are left out."""
    found: dict[str, Node] = {}
    reports = snapshot.reading.reports
    for each in snapshot.instances:
        name, app = each.meta.get("node", ""), each.meta.get("app", "")
        coordinates = each.meta.get("coordinator") == "true"
        if not name or (app != snapshot.app and not coordinates):
            continue
        report = reports.get(NodeName(name))
        roles = [*(["host"] if app == snapshot.app else []), *(["coordinator"] if coordinates else [])]
        holds = snapshot.lock is not None and snapshot.lock.holder == name
        found[name] = Node(
            node=name,
            zone=each.meta.get("zone", ""),
            address=each.address,
            agent=each.status,
            version=each.meta.get("version", "") or (report.agent if report else ""),
            role="+".join(roles) + (" (leads)" if holds else ""),
            report=_judge(app == snapshot.app, each.meta.get("instance", ""), report.instance if report else None),
            acted_on=f"{report.generation}/{report.seq}" if report else "",
            is_ready=report.is_ready if report else None,
            is_leaving=report.is_leaving if report else None,
        )
    for name, report in reports.items():
        if name not in found:
            acted_on = f"{report.generation}/{report.seq}"
            found[name] = Node(
                name, "", "", "not registered", report.agent, "host", "of no live agent", acted_on, None, None
            )
    return tuple(found[name] for name in sorted(found))


def render(nodes: tuple[Node, ...]) -> RenderableType:
    """Lay them out."""
    has_zones = any(each.zone for each in nodes)
    names = ["host", *(["zone"] if has_zones else []), "address", "agent", "version", "role", "report", "acted on", ""]
    rows = []
    for each in nodes:
        state = (
            "leaving" if each.is_leaving else "" if each.is_ready is None else "ready" if each.is_ready else "not ready"
        )
        cells = [each.node, *([each.zone] if has_zones else []), each.address, each.agent, each.version, each.role]
        styles = {"passing": "green", "critical": "red", "not registered": "red"}
        texts = [Text(clean(cell), style=styles.get(cell, "")) for cell in (*cells, each.report, each.acted_on, state)]
        rows.append(texts)
    return columns(names, rows)


def documents(nodes: tuple[Node, ...]) -> list[dict[str, Any]]:
    """Return them as JSON."""
    return [asdict(each) for each in nodes]


def _judge(runs_the_app: bool, instance: str, reported: str | None) -> str:
    if reported is None:
        return "missing" if runs_the_app else ""
    return "current" if reported == instance else "from a previous boot of its agent"

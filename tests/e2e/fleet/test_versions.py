"""Agents of two versions of the record in one fleet, as while a fleet is upgraded."""

import json

import pytest

from agent.core.model.record import RECORD_VERSION
from agent.core.model.report import NodeReport
from cluster.scenarios.fleet import FleetScenario
from cluster.servers.fleet import until_all
from tests.e2e.fleet.conftest import NEWER

pytestmark = [pytest.mark.real, pytest.mark.traffic, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def test_hosts_hold_what_they_serve_under_a_record_of_the_next_version(scenario: FleetScenario) -> None:
    """The one that can read it acts on it; the others say why they do not, and go on after `adopt`."""
    fleet = scenario.fleet
    reading = await scenario.reading()
    generation = max(report.generation for report in reading.reports.values()) + 1
    record = {"v": RECORD_VERSION + 1, "generation": generation, "seq": 0, "phase": "pending", "unheard": "of"}
    await fleet.consul.put(f"{fleet.app}/rollout", json.dumps(record))
    elders = [host for node, host in fleet.hosts.items() if node != NEWER]
    await until_all(elders, lambda report: "version" in _words(report), deadline_s=20)
    await fleet.hosts[NEWER].until(lambda report: report.generation == generation, deadline_s=20)
    await fleet.edge.until(*fleet.hosts)
    assert await fleet.serving() == scenario.began_with
    said = await fleet.cli("adopt", "--app", fleet.app, "--yes", "--reason", "a test")
    assert said.code == 0, said
    await until_all(list(fleet.hosts.values()), lambda report: report.generation == generation + 1, deadline_s=20)
    assert await fleet.serving() == scenario.began_with


def _words(report: NodeReport) -> str:
    return " ".join((report.wants, *report.notes))

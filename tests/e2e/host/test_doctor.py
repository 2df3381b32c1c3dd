"""`tidegate doctor` on a healthy host, and with each part of it broken: what is wrong, and what to do about it."""

from pathlib import Path
from typing import Any

import pytest

from agent.config import Settings
from agent.doctor.finding import Finding, Grade
from agent.doctor.run_checks import run_checks
from cluster.scenarios.host import Scenario
from cluster.servers.consul import ConsulServer
from cluster.servers.host import Host, Plan
from cluster.servers.ports import free_port
from cluster.servers.tools import LabError
from tests.e2e.host.conftest import MakeHost

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def test_a_healthy_host_has_nothing_to_mend_and_a_broken_one_has(scenario: Scenario) -> None:
    """Every broken part is named with advice, the others are still looked at; the exit status tells."""
    (host,) = scenario.hosts
    findings = await run_checks(host.settings)
    assert [finding for finding in findings if finding.grade is Grade.FAIL and finding.what != "Disk"] == []
    assert "Engine" in await _printed(host)

    nobody = f"http://127.0.0.1:{free_port()}"
    _bad(await run_checks(_but(host, "consul", address=nobody)), "Consul", "start the local Consul agent")
    _bad(await run_checks(_but(host, "docker", socket="unix:///nonexistent")), "Docker", "start Docker Engine")
    _bad(await run_checks(_but(host, "haproxy", master_socket=Path("/nonexistent"))), "HAProxy master socket", "-S")
    _bad(await run_checks(_but(host, "haproxy", socket=Path("/nonexistent"))), "HAProxy", "start HAProxy")
    host.haproxy.kill()
    _bad(await run_checks(host.settings), "HAProxy", "start HAProxy")
    with pytest.raises(LabError, match="exit status 1"):
        await host.cli("doctor")


async def test_a_token_without_rights_is_told_what_it_lacks(
    app_name: str, make_host: MakeHost, acl_consul: ConsulServer, tmp_path: Path
) -> None:
    """Each right with the rule that gives it; Consul itself answers."""
    file = tmp_path / "token"
    file.write_text(await acl_consul.create_token('key_prefix "other/" { policy = "read" }'))
    host = await make_host(
        Plan(app_name, settings={"consul": {"address": acl_consul.address, "token_file": str(file)}})
    )
    findings = await run_checks(host.settings)
    _bad(findings, "Permission to read", f'key_prefix "{app_name}/" {{ policy = "read" }}')
    _bad(findings, "Permission to report", f'key_prefix "{app_name}-status/nodes/" {{ policy = "write" }}')
    assert next(finding for finding in findings if finding.what == "Consul").grade is Grade.OK


def _but(host: Host, section: str, **changes: Any) -> Settings:
    table = getattr(host.settings, section).model_copy(update=changes)
    return host.settings.model_copy(update={section: table})


def _bad(findings: list[Finding], what: str, advice: str) -> None:
    found = next(finding for finding in findings if finding.what == what)
    assert found.grade is Grade.FAIL, found
    assert advice in found.advice, found


async def _printed(host: Host) -> str:
    """Return what an operator sees; a small disk is no reason to fail here."""
    try:
        return await host.cli("doctor")
    except LabError as exc:
        return str(exc)

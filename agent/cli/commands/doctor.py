"""``tidegate doctor``: findings as a table, advice below what needs it."""

import asyncio
import json
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from agent.adapters.consul.fleet_snapshot import snapshot
from agent.adapters.consul.services import health_service
from agent.adapters.consul.transport import Request
from agent.cli.connect import Session, open_session
from agent.cli.options import ConsulOptions
from agent.config import Settings
from agent.core.model.errors import TidegateError
from agent.doctor.consul import judge_clock
from agent.doctor.finding import Finding, Grade, fail, ok
from agent.doctor.fleet import FleetState, check_rights, judge_fleet
from agent.doctor.run_checks import run_checks

_MARKS = {Grade.OK: ("ok  ", "green"), Grade.WARN: ("note", "yellow"), Grade.FAIL: ("BAD ", "bold red")}


def show(settings: Settings, *, as_json: bool) -> bool:
    """Print the findings about this host; return whether nothing is bad."""
    return _print(asyncio.run(run_checks(settings)), as_json=as_json)


def show_fleet(consul_options: ConsulOptions) -> bool:
    """Print the findings about the fleet; return whether nothing is bad."""
    return _print(asyncio.run(_examine_fleet(consul_options)), as_json=consul_options.as_json)


async def _examine_fleet(consul_options: ConsulOptions) -> list[Finding]:
    async with open_session(consul_options) as session:
        try:
            reply = await session.client.http.send(Request("GET", "/v1/status/leader"))
        except TidegateError as exc:
            return [fail("Consul", str(exc), "correct CONSUL_HTTP_ADDR or --http-addr, or start the Consul agent")]
        if reply.body.strip() in (b'""', b""):
            advice = "look at the Consul servers: a quorum is missing"
            return [fail("Consul", f"{session.client.name} has no leader", advice)]
        findings = [ok("Consul", f"{session.client.name} answers and has a leader")]
        findings.append(judge_clock(reply.headers.get("Date")))
        try:
            return [*findings, *await check_rights(session.client, session.app), *judge_fleet(await _state(session))]
        except TidegateError as exc:
            advice = f"give the token the policy tidegate-{session.app}-operator or -read-only"
            return [*findings, fail("Permission to look", str(exc), advice)]


async def _state(session: Session) -> FleetState:
    seen = await snapshot(session.client, session.app)
    services = await health_service(session.client, session.app)
    holder = seen.lock.holder if seen.lock else None
    return FleetState(session.app, seen.reading, seen.instances, services.instances, holder)


def _print(findings: list[Finding], *, as_json: bool) -> bool:
    console = Console()
    if as_json:
        console.print_json(json.dumps([asdict(finding) for finding in findings]))
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            mark, style = _MARKS[finding.grade]
            console.print(Text.assemble((mark, style), f"  {finding.what:<{width}}  {finding.seen}"), soft_wrap=True)
            if finding.advice:
                console.print(Text(f"      {'':<{width}}  -> {finding.advice}", style="dim"), soft_wrap=True)
    return all(finding.grade is not Grade.FAIL for finding in findings)

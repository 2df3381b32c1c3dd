"""``tidegate doctor``: findings as a table, advice below what needs it."""

import asyncio
import json
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from agent.adapters.consul.fleet_snapshot import look
from agent.adapters.consul.services import health_service
from agent.adapters.consul.transport import Request
from agent.cli.connect import Session, open_session
from agent.cli.options import Access
from agent.config import Settings
from agent.core.model.errors import TidegateError
from agent.doctor.consul import judge_clock
from agent.doctor.examine import examine
from agent.doctor.finding import Finding, Grade, bad, good
from agent.doctor.fleet import FleetState, check_rights, judge_fleet

_MARKS = {Grade.GOOD: ("ok  ", "green"), Grade.NOTE: ("note", "yellow"), Grade.BAD: ("BAD ", "bold red")}


def show(settings: Settings, *, as_json: bool) -> bool:
    """Print the findings about this host; return whether nothing is bad."""
    return _print(asyncio.run(examine(settings)), as_json=as_json)


def show_fleet(access: Access) -> bool:
    """Print the findings about the fleet; return whether nothing is bad."""
    return _print(asyncio.run(_examine_fleet(access)), as_json=access.as_json)


async def _examine_fleet(access: Access) -> list[Finding]:
    async with open_session(access) as session:
        try:
            reply = await session.client.http.send(Request("GET", "/v1/status/leader"))
        except TidegateError as exc:
            return [bad("Consul", str(exc), "correct CONSUL_HTTP_ADDR or --http-addr, or start the Consul agent")]
        if reply.body.strip() in (b'""', b""):
            advice = "look at the Consul servers: a quorum is missing"
            return [bad("Consul", f"{session.client.name} has no leader", advice)]
        findings = [good("Consul", f"{session.client.name} answers and has a leader")]
        findings.append(judge_clock(reply.headers.get("Date")))
        try:
            return [*findings, *await check_rights(session.client, session.app), *judge_fleet(await _state(session))]
        except TidegateError as exc:
            advice = f"give the token the policy tidegate-{session.app}-operator or -read-only"
            return [*findings, bad("Right to look", str(exc), advice)]


async def _state(session: Session) -> FleetState:
    seen = await look(session.client, session.app)
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
    return all(finding.grade is not Grade.BAD for finding in findings)

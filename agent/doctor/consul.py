"""Consul: does it answer, may the token do what an agent does, do the clocks agree."""

import time
from email.utils import parsedate_to_datetime

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import agent_self
from agent.adapters.consul.transport import Request
from agent.adapters.consul.visibility import list_instances
from agent.core.model.app import App
from agent.core.model.errors import ConsulForbiddenError, TidegateError
from agent.core.model.keys import active_image, node_report
from agent.core.model.names import NodeName
from agent.doctor.finding import Finding, fail, ok, warn

CLOCK_TOLERANCE_S = 5.0
"""Cookies tolerate a minute between hosts; a clock that is seconds off will soon be more."""


async def check_consul(client: ConsulClient, app: App, node: NodeName) -> list[Finding]:
    """Check reachability, rights and time; the later checks only when it answers."""
    try:
        reply = await client.http.send(Request("GET", "/v1/status/leader"))
    except TidegateError as exc:
        advice = "start the local Consul agent, or correct consul.address, token_file or the TLS files"
        return [fail("Consul", str(exc), advice)]
    if reply.body.strip() in (b'""', b""):
        return [fail("Consul", f"{client.name} has no leader", "look at the Consul servers: a quorum is missing")]
    findings = [ok("Consul", f"{client.name} answers and has a leader"), judge_clock(reply.headers.get("Date"))]
    try:
        findings.append(ok("Consul version", (await agent_self(client)).version))
    except TidegateError:
        findings.append(warn("Consul version", "the token may not read it", "grant agent:read if you want it shown"))
    return [
        *findings,
        await _may_read(client, app),
        await _may_write(client, app, node),
        await _may_register(client, app),
    ]


def judge_clock(date: str | None) -> Finding:
    """Compare this host's clock with the Date header of an answer that has just come."""
    if date is None:
        return warn("Clock", "Consul sent no date", "compare it by hand with another host's")
    apart = abs(parsedate_to_datetime(date).timestamp() - time.time())
    if apart > CLOCK_TOLERANCE_S:
        return fail("Clock", f"{apart:.0f} s apart from Consul's", "let a time service (chrony) set this host's clock")
    return ok("Clock", f"within {CLOCK_TOLERANCE_S:.0f} s of Consul's")


async def _may_read(client: ConsulClient, app: App) -> Finding:
    key = active_image(app.name)
    try:
        found = await client.get(key)
    except ConsulForbiddenError:
        return fail(
            "Permission to read",
            f"{key} is forbidden",
            f'give the token: key_prefix "{app.name}/" {{ policy = "read" }}',
        )
    except TidegateError as exc:
        return fail("Permission to read", str(exc), "see above")
    if found is None:
        return warn(
            "Permission to read", f"{key} does not exist", f"record the first release: consul kv put {key} IMAGE"
        )
    return ok("Permission to read", f"{key} can be read")


async def _may_write(client: ConsulClient, app: App, node: NodeName) -> Finding:
    key = node_report(app.name, node)
    rule = f'give the token: key_prefix "{app.name}-status/nodes/" {{ policy = "write" }}'
    try:
        # A compare-and-set that cannot match changes nothing, yet needs the right to write.
        await client.put(key, b"", cas=2**62)
    except ConsulForbiddenError:
        return fail("Permission to report", f"{key} may not be written", rule)
    except TidegateError as exc:
        return fail("Permission to report", str(exc), "see above")
    return ok("Permission to report", f"{key} may be written")


async def _may_register(client: ConsulClient, app: App) -> Finding:
    try:
        seen = await list_instances(client, app.name)
    except TidegateError as exc:
        return warn("Service", str(exc), f'give the token: service "{app.name}" {{ policy = "write" }}')
    if seen.problem:
        advice = f'start the agent; with ACLs give the token: service "{app.name}" {{ policy = "write" }}'
        return warn("Service", f"no instance of {app.name} is visible", advice)
    count = len(seen.found.instances)
    return ok("Service", f"{count} instance{'s' if count > 1 else ''} of {app.name} visible")

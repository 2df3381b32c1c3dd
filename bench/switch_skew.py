"""
From the commit of a rollout to the last of five hosts that gives its new visitors the new release.

The commit's time is its audit entry's: stamped before the transaction is sent. A host has switched when its agent logs
the tick that did it, HAProxy's answer read back. All of it is one machine's clock.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from statistics import median, quantiles

from agent.core.model.record import Phase
from bench.figures import Figure, at_most, shown
from cluster.scenarios.fleet import FleetScenario
from cluster.servers.dockerd import docker_daemon
from cluster.servers.fleet import Fleet, FleetPlan, fleet
from cluster.servers.host import TEST_KNOBS, Host
from cluster.servers.images import Images
from cluster.servers.registry import registry
from cluster.servers.tools import LabError

ROUNDS = 22
P99_MS = 200.0
CALM_S = 2.2
"""The watch lets two readings pass at once, then one a second; people promote later than that."""


async def measure() -> list[Figure]:
    """Stage, switch and take back, *ROUNDS* times."""
    async with _fleet() as (made, image):
        last = [await _round(FleetScenario(made, ""), image) for _ in range(ROUNDS)]
    p99 = quantiles(last, n=100, method="inclusive")[98]
    return [
        at_most(f"5 hosts: commit to the last host switched, p99 of {ROUNDS}", p99, "ms", P99_MS),
        shown(f"5 hosts: commit to the last host switched, median of {ROUNDS}", median(last), "ms"),
    ]


@asynccontextmanager
async def _fleet() -> AsyncIterator[tuple[Fleet, str]]:
    async with AsyncExitStack() as stack:
        docker = await stack.enter_async_context(docker_daemon())
        store = await stack.enter_async_context(registry())
        images = Images(docker, store)
        stack.push_async_callback(images.forget)
        a, b = await images.testapp("a"), await images.testapp("b")
        plan = FleetPlan(f"bench-{uuid.uuid4().hex[:8]}", knobs={**TEST_KNOBS, "min_healthy_time": "100ms"})
        yield await stack.enter_async_context(fleet(plan, docker, image=a)), b


async def _round(scenario: FleetScenario, image: str) -> float:
    """Return the milliseconds from the commit to the last host's switch."""
    await scenario.settled()
    logged = {node: len(host.agent.log.read_text()) for node, host in scenario.fleet.hosts.items()}
    await _command(scenario, "deploy", image, "--manual", "--detach", "--min-healthy-time", "1s")
    await scenario.until_phase(Phase.READY)
    await asyncio.sleep(CALM_S)
    await _command(scenario, "promote")
    await scenario.until_phase(Phase.BAKING)
    commit = next(entry for entry in reversed(await scenario.history()) if entry["to"] == Phase.SWITCHING)
    at = datetime.fromisoformat(commit["at"])
    switches = [_switched(host, logged[node]) for node, host in scenario.fleet.hosts.items()]
    await asyncio.sleep(CALM_S)
    await _command(scenario, "rollback")
    await scenario.until_phase(Phase.ROLLED_BACK)
    return max((switched - at).total_seconds() * 1e3 for switched in switches)


async def _command(scenario: FleetScenario, name: str, *arguments: str) -> None:
    said = await scenario.fleet.cli(name, *arguments, "--app", scenario.fleet.app)
    if said.code != 0:
        raise LabError(f"tidegate {name}: {said.out}{said.err}")


def _switched(host: Host, since: int) -> datetime:
    """Return when the agent logged the tick that switched."""
    events = [json.loads(line) for line in host.agent.log.read_text()[since:].splitlines()]
    found = [event for event in events if any(action.startswith("switch to") for action in event.get("actions", ()))]
    return datetime.fromisoformat(found[-1]["timestamp"])

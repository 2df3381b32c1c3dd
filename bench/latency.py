"""From the key's write to the first new visitor on the staged release, and the same for the way back."""

import asyncio
import time
from statistics import median, quantiles

from agent.core.model.states import SlotPhase
from bench.figures import Figure, at_most
from bench.rig import Rig, rig
from cluster.scenarios.host import version_of
from cluster.traffic.http import Connection

ROUNDS = 20
CALM_S = 2.2
"""The watch lets two readings pass at once, then one a second; a person does not write faster."""
MEDIAN_S, P99_S = 0.050, 0.150
"""The original polled each second."""


async def measure() -> list[Figure]:
    """Switch to b and back, *ROUNDS* times; b is staged anew each time."""
    forward: list[float] = []
    back: list[float] = []
    async with rig({"min_healthy_time": "100ms"}) as made:
        for _ in range(ROUNDS):
            await made.put("stage", made.b)
            await made.until(made.b, SlotPhase.STAGED)
            await asyncio.sleep(CALM_S)
            forward.append(await _switch(made, made.b))
            await asyncio.sleep(CALM_S)
            back.append(await _switch(made, made.a))
            # Setting the key to the same value again would wake nobody: withdraw it first.
            await made.put("stage", made.a)
            await made.until(made.b, None)
    return [*_figures("switch", forward), *_figures("rollback", back)]


async def _switch(made: Rig, image: str) -> float:
    """Write the key; return the seconds until a new connection gets the release."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(made.put("active", image))
        ended = group.create_task(_until(made.host.target, version_of(image)))
    return ended.result() - began


async def _until(target: str, version: str) -> float:
    """Ask on new connections until *version* answers; return when it did."""
    async with asyncio.timeout(10):
        while await _version(target) != version:
            pass
    return time.monotonic()


async def _version(target: str) -> str | None:
    connection = await Connection.open(target)
    try:
        await connection.send("GET", "/", "Connection: close\r\n")
        head = await connection.read_head()
        await connection.read_body(head)
        return head.version
    finally:
        connection.close()


def _figures(name: str, samples: list[float]) -> list[Figure]:
    p99 = quantiles(samples, n=100, method="inclusive")[98]
    return [
        at_most(
            f"{name}: key written to new visitors, median of {len(samples)}",
            median(samples) * 1e3,
            "ms",
            MEDIAN_S * 1e3,
        ),
        at_most(f"{name}: key written to new visitors, p99", p99 * 1e3, "ms", P99_S * 1e3),
    ]

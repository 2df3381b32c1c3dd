"""One host that coordinates itself: a rollout from the record to retired, under traffic, with nobody else's help."""

import asyncio
import json
import time
from datetime import datetime

import pytest

from agent.adapters.consul.fleet import read_fleet, write_change
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.wire import TxnDone
from agent.core.model.errors import TidegateError
from agent.core.model.names import AppName, ImageReference
from agent.core.model.record import Phase
from agent.core.rollout.change import writes_of
from agent.core.rollout.commands import CommandAuthor, deploy
from agent.core.rollout.decision import Decision, Request
from agent.core.rollout.strategy import Strategy
from cluster.scenarios.host import MIX, Scenario, proven
from cluster.servers.consul import ConsulServer
from cluster.servers.host import Plan
from cluster.servers.process import eventually
from cluster.traffic.generator import Traffic
from cluster.traffic.verdict import Event, EventKind
from tests.e2e.host.conftest import MakeHost, PushedImages

pytestmark = [pytest.mark.real, pytest.mark.full, pytest.mark.traffic, pytest.mark.asyncio(loop_scope="session")]

STRATEGY = Strategy(bake_time=2.0, drain_idle=3.0, drain_timeout=30.0, progress_deadline=40.0, stop_grace_period=5.0)


async def test_a_rollout_on_one_host_loses_and_moves_nobody(
    app_name: str, consul: ConsulServer, make_host: MakeHost, test_images: PushedImages
) -> None:
    """First deploy of a over the holding page, then b under traffic; each phase and who wrote it is in the history."""
    app = AppName(app_name)
    host = await make_host(Plan(app_name, settings={"coordinator": True}))
    await host.start_agent()
    scenario = Scenario(app_name, consul, [host])
    async with ConsulClient(consul.address) as client:
        await _deploys(client, app, test_images.a)
        scenario.happened(EventKind.ACTIVATED, test_images.a)
        async with Traffic(host.target, mix=MIX) as traffic:
            await asyncio.sleep(2)
            await _deploys(client, app, test_images.b)
            await asyncio.sleep(1)
            outcome = await traffic.stop()
    entries = await consul.tree(f"{app_name}-status/history/2/")
    history = [json.loads(entries[key]) for key in sorted(entries, key=lambda key: int(key.rpartition("/")[2]))]
    commit = next(datetime.fromisoformat(entry["at"]) for entry in history if entry["to"] == Phase.SWITCHING)
    scenario.events.append(Event(EventKind.ACTIVATED, "b", time.monotonic() - (time.time() - commit.timestamp())))
    proven(scenario.verdict(outcome), outcome)
    assert [entry["to"] for entry in history] == [
        "pending",
        "pending",
        "staging",
        "ready",
        "switching",
        "baking",
        "retiring",
        "successful",
    ]
    assert await consul.get(f"{app_name}/active/image") == await consul.get(f"{app_name}/stage/image")


async def _deploys(client: ConsulClient, app: AppName, image: str) -> None:
    """Ask for *image* and wait until its rollout has ended well."""

    async def asked() -> bool:
        try:
            reading = await read_fleet(client, app)
        except TidegateError:
            return False  # the agent has not registered yet
        if not reading.live:
            return False
        change = deploy(
            reading.keys,
            reading.reports.values(),
            Request(image=ImageReference(image)),
            STRATEGY,
            CommandAuthor("tester", "because", time.time()),
        )
        writes = writes_of(app, change, reading.indexes, by="tester", now=time.time())
        return isinstance(await write_change(client, app, writes), TxnDone)

    assert await eventually(asked, deadline_s=20)
    last: Decision | None = None

    async def ended() -> bool:
        nonlocal last
        last = (await read_fleet(client, app)).record
        return last is not None and last.phase.is_terminal

    assert await eventually(ended, deadline_s=90), last
    assert last is not None
    assert last.phase is Phase.SUCCESSFUL, last.why

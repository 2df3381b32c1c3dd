"""An agent without apps, as a process: Consul is all it needs, and it says what it coordinates."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.adapters.consul.kv import ConsulClient
from agent.core.model import keys
from agent.core.model.keys import KeyValue
from agent.core.model.names import parse_app
from agent.core.rollout.lock import read_lock
from cluster.servers.ports import free_port
from cluster.servers.process import ServerProcess, answers, eventually
from tests.adapters.fakes.consul import FakeConsul, running
from tests.adapters.fakes.consul_faults import Fault

TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
pytestmark = pytest.mark.slow
SHOP = parse_app("shop")


@dataclass
class Core:
    """A machine beside a Consul server: no Docker, no HAProxy."""

    home: Path
    port: int
    consul: FakeConsul

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[ServerProcess]:
        """Run the agent; returns when its API answers."""
        config = self.home / "tidegate.toml"
        config.write_text(
            f'node = "core-1"\nstate_dir = "{self.home}/state"\ncoordinator = true\ncoordinates = ["shop", "till"]\n'
            f'[consul]\naddress = "{self.consul.url}"\n[docker]\nsocket = "unix://{self.home}/docker.sock"\n'
            f'[haproxy]\nsocket = "{self.home}/h.sock"\n[api]\nport = {self.port}\n'
        )
        process = ServerProcess([TIDEGATE, "agent", "-c", str(config)], log=self.home / "agent.log")
        try:
            await process.start(lambda: answers(f"http://127.0.0.1:{self.port}/healthz"), deadline_s=15)
            yield process
        finally:
            process.kill()

    async def ask(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(url) as reply:
            return await reply.text()

    async def apps(self) -> dict[str, dict[str, Any]]:
        """Return what it says of each app."""
        return {each["app"]: each for each in json.loads(await self.ask("/v1/coordination"))["apps"]}

    async def leads(self) -> bool:
        """Whether it leads both, and can act."""
        return all(each["is_leading"] and not each["problem"] for each in (await self.apps()).values())

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home / "agent.log").read_text().splitlines()]


@pytest.fixture(name="core")
async def _core(tmp_path: Path) -> AsyncIterator[Core]:
    async with running() as consul:
        yield Core(tmp_path, free_port(), consul)


async def _end(process: ServerProcess) -> int | None:
    os.kill(process.pid, signal.SIGTERM)

    async def gone() -> bool:
        return not process.alive

    assert await eventually(gone, deadline_s=6)
    assert process._process is not None
    return process._process.returncode


async def test_it_leads_what_the_settings_name_and_gives_it_back_at_the_end(core: Core) -> None:
    """Registered as one that may coordinate, with no app of its own; nothing of Docker or HAProxy is missed."""
    async with core.agent() as process:
        assert await eventually(core.leads, deadline_s=10)
        assert {app: shown["epoch"] for app, shown in (await core.apps()).items()} == {"shop": 1, "till": 1}
        (service,) = core.consul.catalog.services.values()
        meta = service["Service"]["Meta"]
        assert service["Service"]["Service"] == "tidegate-agent"
        assert (meta["node"], meta["coordinator"], meta.get("app")) == ("core-1", "true", None)
        holder = read_lock(await _lock(core))
        assert (holder.node, holder.instance) == ("core-1", meta["instance"])
        assert "coordinates shop, till" in await core.ask("/readyz")
        assert 'tidegate_coordinator_leading{app="till"} 1.0' in await core.ask("/metrics")
        assert await _end(process) == 0
    assert core.consul.catalog.sessions == set(), "its locks are free at once"
    assert not (core.home / "state").exists()
    events = [line["event"] for line in core.log]
    assert sorted(events) == sorted(
        ["agent.started", "agent.stopped", *["coordinator.elected", "coordinator.deposed"] * 2]
    ), events


async def test_a_consul_that_hangs_does_not_hold_up_its_end(core: Core) -> None:
    """What it holds expires by itself then."""
    async with core.agent() as process:
        assert await eventually(core.leads, deadline_s=10)
        core.consul.fault = Fault.HANG
        assert await _end(process) == 0


async def test_without_consul_it_lives_and_says_what_is_wrong(core: Core) -> None:
    """It takes the lock when Consul is back; a service manager that restarts it would help nobody."""
    core.consul.fault = Fault.ERROR
    async with core.agent():

        async def complains() -> bool:
            return all("500" in each["problem"] for each in (await core.apps()).values())

        assert await eventually(complains, deadline_s=10)
        assert await core.ask("/healthz") == "ok\n"
        assert 'tidegate_coordinator_hindered{app="shop"} 1.0' in await core.ask("/metrics")
        core.consul.fault = None
        assert await eventually(core.leads, deadline_s=15)


async def _lock(core: Core) -> KeyValue | None:
    async with ConsulClient(core.consul.url) as client:
        return await client.get(keys.coordinator(SHOP))

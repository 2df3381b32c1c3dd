"""The agent as a process: what systemd is told, how it starts, what it survives and how it ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.core.model.report import NodeReport
from cluster.servers.ports import free_port
from cluster.servers.process import ServerProcess, answers, eventually
from tests.adapters.fakes.consul import FakeConsul, running
from tests.adapters.fakes.consul_faults import Fault

TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
pytestmark = pytest.mark.slow


@dataclass
class Bench:
    """A host on which Docker and HAProxy are absent."""

    home: Path
    port: int
    manager: socket.socket
    consul: FakeConsul

    @property
    def config(self) -> Path:
        return self.home / "tidegate.toml"

    def write(self) -> None:
        self.config.write_text(
            f'node = "web-1"\nstate_dir = "{self.home}/state"\n'
            f'[consul]\naddress = "{self.consul.url}"\n[docker]\nsocket = "unix://{self.home}/docker.sock"\n'
            f'[haproxy]\nsocket = "{self.home}/h.sock"\nmaster_socket = "{self.home}/m.sock"\n'
            f'server_state_file = "{self.home}/state.file"\n[api]\nport = {self.port}\n[[apps]]\nname = "shop"\n'
        )

    def told(self) -> list[str]:
        """Return the fields systemd has received since the last call."""
        fields: list[str] = []
        while True:
            try:
                fields += self.manager.recv(4096).decode().split("\n")
            except BlockingIOError:
                return fields

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home / "agent.log").read_text().splitlines()]

    @asynccontextmanager
    async def agent(self, **env: str) -> AsyncIterator[ServerProcess]:
        """Run the agent; returns when its API answers."""
        self.write()
        environment = {"NOTIFY_SOCKET": f"{self.home}/notify", **env}
        process = ServerProcess(
            [TIDEGATE, "agent", "-c", str(self.config)], log=self.home / "agent.log", env=environment
        )
        try:
            await process.start(lambda: answers(f"http://127.0.0.1:{self.port}/v1/status"), deadline_s=15)
            yield process
        finally:
            process.kill()

    def once(self) -> subprocess.CompletedProcess[str]:
        """Run an agent that is expected to end by itself."""
        argv = [TIDEGATE, "agent", "-c", str(self.config)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)


@pytest.fixture(name="manager")
def _manager(haproxy_dir: Path) -> Iterator[socket.socket]:
    """Systemd's end of the notify socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{haproxy_dir}/notify")
        manager.setblocking(False)
        yield manager


@pytest.fixture(name="bench")
async def _bench(haproxy_dir: Path, manager: socket.socket) -> AsyncIterator[Bench]:
    async with running() as consul:
        made = Bench(haproxy_dir, free_port(), manager, consul)
        made.write()
        yield made


async def _end(process: ServerProcess) -> tuple[int, float]:
    """Send SIGTERM; return exit code and seconds."""
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)

    async def gone() -> bool:
        return not process.alive

    assert await eventually(gone, deadline_s=10)
    assert process._process is not None
    return process._process.returncode, time.monotonic() - began


async def _status(bench: Bench) -> NodeReport:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{bench.port}/v1/status") as reply,
    ):
        return NodeReport.model_validate_json(await reply.text())


async def test_an_agent_without_docker_and_haproxy_starts_says_so_and_ends_in_time(bench: Bench) -> None:
    """READY once it answers and has looked; reasons in the status; its report in Consul; exit code 0 on SIGTERM."""
    async with bench.agent(WATCHDOG_USEC="400000") as process:

        async def watched() -> bool:
            fields.extend(bench.told())
            return fields.count("WATCHDOG=1") >= 3

        fields: list[str] = []
        assert await eventually(watched, deadline_s=5)
        ready = fields.index("READY=1")
        assert fields[ready + 1].startswith("STATUS=")
        assert fields.count("READY=1") == 1
        assert len([field for field in fields if field.startswith("STATUS=")]) <= 3, "STATUS only where it changes"
        report = await _status(bench)
        assert not report.is_ready
        assert any("HAProxy" in note for note in report.notes), report.notes
        assert all("HAProxy" in slot.reason for slot in report.slots.values())

        async def written() -> bool:
            return "shop-status/nodes/web-1" in bench.consul._kv

        assert await eventually(written, deadline_s=5)
        code, took_s = await _end(process)
        assert (code, took_s < 3) == (0, True)
        assert "STOPPING=1" in bench.told()
    events = [line["event"] for line in bench.log]
    assert {"agent.started", "docker.lost", "haproxy.lost", "desired.read", "agent.stopped"} <= set(events)
    assert len(events) < 15, events


async def test_a_consul_that_hangs_does_not_hold_up_the_end(bench: Bench) -> None:
    """The last report has its deadline."""
    bench.consul.fault = Fault.HANG
    async with bench.agent() as process:
        code, took_s = await _end(process)
    assert (code, took_s < 3) == (0, True)


async def test_a_client_that_keeps_its_connection_does_not_hold_up_the_end(bench: Bench) -> None:
    """Such as a dashboard with keep-alive."""
    async with bench.agent() as process:
        _reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await _reader.readline()
        code, took_s = await _end(process)
        writer.close()
    assert (code, took_s < 3) == (0, True)


async def test_a_second_agent_on_the_same_port_ends_before_it_does_anything(bench: Bench) -> None:
    """One line that names the setting, exit code 1; the first one does not notice."""
    async with bench.agent():
        done = await asyncio.to_thread(bench.once)
        port = bench.port
        assert done.returncode == 1
        assert done.stderr == f"tidegate: api.port: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        assert (await _status(bench)).node == "web-1"


async def test_a_state_directory_that_cannot_be_written_is_named(bench: Bench) -> None:
    """One line, exit code 1."""
    (bench.home / "file").write_text("")
    state = f"{bench.home}/file/state"
    bench.config.write_text(bench.config.read_text().replace(f'{bench.home}/state"', f'{state}"', 1))
    done = await asyncio.to_thread(bench.once)
    assert done.returncode == 1
    assert done.stderr.startswith(f"tidegate: state_dir: {state} cannot be written: ")
    assert len(done.stderr.splitlines()) == 1


async def test_a_damaged_journal_is_told_and_does_not_stop_the_agent(bench: Bench) -> None:
    """It is put aside under another name."""
    (bench.home / "state").mkdir()
    (bench.home / "state" / "shop.journal.json").write_text("{")
    async with bench.agent():
        pass
    (line,) = [line for line in bench.log if line["event"] == "journal.unusable"]
    assert "is damaged" in line["problem"]

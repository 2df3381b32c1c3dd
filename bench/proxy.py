"""
Tidegate's full HAProxy configuration beside the barest proxy: same container, same logging, turn by turn.

By hand: ``python -m bench.proxy --out build/bench.json``. wrk, HAProxy and the container share the machine, so
only the ratios mean something, and only within one run.
"""

import argparse
import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from agent.adapters.haproxy.files import ProxyPaths
from agent.adapters.haproxy.runtime_api import HaproxySocket
from agent.core.model.app import App
from agent.core.model.names import Pin, SlotName
from agent.core.model.states import AdminState
from agent.provision.haproxy_config import ProxyOptions, render
from bench.figures import Figure, at_least, at_most, shown, table, write
from cluster.servers.dockerd import DockerDaemon, docker_daemon
from cluster.servers.haproxy import Haproxy
from cluster.servers.ports import free_port
from cluster.servers.process import answers, eventually
from cluster.servers.tools import LabError, run
from cluster.servers.traffic_app import compile_app
from tests.adapters.haproxy.rig import known_good

LEAST_THROUGHPUT, MOST_P99 = 0.9, 1.2
_PIN = Pin("a" * 12)
_NAME = "tidegate-bench-proxy"
_CONNECTIONS = 32
_DOCKERFILE = Path(__file__).resolve().parents[1] / "app" / "testapp" / "Dockerfile"
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
# The lines on logging and the timeouts of the full configuration, and HAProxy's defaults for all else.
_BARE = """\
global
    master-worker
    log stdout format raw local0 {level}
    maxconn 2000
defaults
    mode http
    log global
    option httplog
    option dontlognull
    option log-separate-errors
    timeout connect 500ms
    timeout client 75s
    timeout http-keep-alive 75s
    timeout http-request 10s
    timeout server 75s
frontend bare
    bind 127.0.0.1:{port}
    default_backend app
backend app
    server one {address}:{container_port}
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients are like; a POST has no target, its connections are not kept on purpose."""

    name: str
    has_cookie: bool = False
    keeps_alive: bool = True
    method: str = "GET"

    def arguments(self) -> list[str]:
        """Return them as arguments of wrk."""
        cookie = [f"-HCookie: TIDEGATE={_PIN}.{int(time.time())}"] if self.has_cookie else []
        return [*cookie, *([] if self.keeps_alive else ["-HConnection: close"])]


LOADS = (
    Load("new visitors, kept connections"),
    Load("cookie holders, kept connections", has_cookie=True),
    Load("new visitors, a connection each", keeps_alive=False),
    Load("cookie holders, a connection each", has_cookie=True, keeps_alive=False),
    Load("POST, kept connections", has_cookie=True, method="POST"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk."""

    per_second: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Rounds:
    """How long and how often each load is measured; many short rounds suit a busy machine better than few long ones."""

    seconds: int = 1
    count: int = 31
    """A round's p99 varies threefold with nothing else running; the median of 11 ratios by half."""
    log_level: str = "notice"


@dataclass(frozen=True, slots=True)
class Pair:
    """Public ports of the two proxies."""

    bare: int
    full: int


async def measure(rounds: Rounds) -> list[Figure]:
    """Set everything up, measure each load turn by turn, and take all down again."""
    figures: list[Figure] = []
    async with AsyncExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="tgb-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        docker = await stack.enter_async_context(docker_daemon())
        app = await stack.enter_async_context(_container(docker, home))
        pair = await stack.enter_async_context(_proxies(home, app, rounds.log_level))
        for load in LOADS:
            figures += await _compare(pair, load, rounds, home)
    return figures


async def _compare(pair: Pair, load: Load, rounds: Rounds, home: Path) -> list[Figure]:
    bare: list[Sample] = []
    full: list[Sample] = []
    for number in range(rounds.count):
        turns = [(pair.bare, bare), (pair.full, full)]
        for port, samples in turns if number % 2 else reversed(turns):
            samples.append(await _wrk(port, load, rounds.seconds, home))
    # Of neighbours in time: what else runs here changes from round to round.
    throughput = median(ours.per_second / theirs.per_second for ours, theirs in zip(full, bare, strict=True))
    p99 = median(ours.p99_s / theirs.p99_s for ours, theirs in zip(full, bare, strict=True))
    name = f"HAProxy, {load.name}"
    if load.method == "POST":
        ratios = [shown(f"{name}: throughput to bare", throughput, "x"), shown(f"{name}: p99 to bare", p99, "x")]
    else:
        ratios = [
            at_least(f"{name}: throughput to bare", throughput, "x", LEAST_THROUGHPUT),
            at_most(f"{name}: p99 to bare", p99, "x", MOST_P99),
        ]
    return [*ratios, shown(f"{name}: requests", median(each.per_second for each in full), "1/s")]


async def _wrk(port: int, load: Load, seconds: int, home: Path) -> Sample:
    """Run wrk once; a failed request is an error."""
    script = home / f"{load.method}.lua"
    script.write_text(f'wrk.method = "{load.method}"\n')
    common = ["wrk", "-t2", f"-c{_CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script), *load.arguments()]
    text = await run([*common, f"http://127.0.0.1:{port}/"], timeout_s=seconds + 20)
    rate = re.search(r"Requests/sec: +([0-9.]+)", text)
    p99 = re.search(r" 99% +([0-9.]+)(us|ms|s|m)", text)
    if rate is None or p99 is None or "Non-2xx" in text or "Socket errors" in text:
        raise LabError(f"requests failed: {text}")
    return Sample(float(rate[1]), float(p99[1]) * _UNITS_S[p99[2]])


@asynccontextmanager
async def _container(docker: DockerDaemon, home: Path) -> AsyncIterator[App]:
    """Run the test application at slot blue's address on a network of its own."""
    subnet = str(await docker.free_subnet())
    app = App.model_validate(
        {"name": "bench", "bind": "127.0.0.1", "port": free_port(), "subnet": subnet, "health_path": "/health"},
    )
    context = home / "image"
    context.mkdir()
    await compile_app(context)
    shutil.copy(_DOCKERFILE, context / "Dockerfile")
    address = str(app.address(SlotName.BLUE))
    async with AsyncExitStack() as stack:
        await docker.cli("build", "-q", "-t", _NAME, str(context), timeout_s=120)
        stack.push_async_callback(docker.cli, "rmi", "-f", _NAME)
        await docker.cli("network", "create", "--subnet", subnet, _NAME)
        stack.push_async_callback(docker.cli, "network", "rm", _NAME)
        where = [f"--name={_NAME}", f"--network={_NAME}", f"--ip={address}", f"--env=PORT={app.container_port}"]
        await docker.cli("run", "-d", *where, _NAME, timeout_s=60)
        stack.push_async_callback(docker.cli, "rm", "-f", "-v", _NAME)

        async def healthy() -> bool:
            return await answers(f"http://{address}:{app.container_port}/health")

        if not await eventually(healthy, deadline_s=10):
            raise LabError("the test application does not answer")
        yield app


@asynccontextmanager
async def _proxies(home: Path, app: App, level: str) -> AsyncIterator[Pair]:
    """Run the bare proxy and the full one, with blue serving."""
    bare, full = home / "bare", home / "full"
    for directory in (bare, full):
        directory.mkdir()
    paths = ProxyPaths(
        runtime_socket=full / "admin.sock",
        state_dir=full,
        state_file=full / "servers.state",
        master_socket=full / "master.sock",
    )
    proxy = HaproxySocket(app, paths)
    proxy.ensure_maps()
    text = render(app, paths, ProxyOptions(maxconn=2000))
    (full / "haproxy.cfg").write_text(text.replace(" local0 notice", f" local0 {level}"))
    port, address = free_port(), app.address(SlotName.BLUE)
    bare_text = _BARE.format(level=level, port=port, address=address, container_port=app.container_port)
    (bare / "haproxy.cfg").write_text(bare_text)
    servers = [Haproxy(directory / "haproxy.cfg", directory) for directory in (bare, full)]
    async with AsyncExitStack() as stack:
        for server in servers:
            stack.push_async_callback(server.stop)
            await server.start()
        await proxy.set_state(SlotName.BLUE, AdminState.DRAIN)
        if not await known_good(proxy, SlotName.BLUE):
            raise LabError("HAProxy does not find the container healthy")
        await proxy.set_pins({SlotName.BLUE: _PIN})
        await proxy.serve(SlotName.BLUE)
        yield Pair(bare=port, full=app.port)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.proxy", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench-proxy.json"))
    parser.add_argument("--seconds", type=int, default=Rounds().seconds, help="length of a round")
    parser.add_argument("--rounds", type=int, default=Rounds().count, help="rounds of each proxy for each load")
    parser.add_argument("--log-level", default=Rounds().log_level, help="info: both log every request")
    given = parser.parse_args(arguments)
    figures = asyncio.run(measure(Rounds(given.seconds, given.rounds, given.log_level)))
    print(table(figures))
    write(figures, given.out)


if __name__ == "__main__":
    main()

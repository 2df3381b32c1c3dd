"""What an agent costs that has nothing to do, and how fast it is there again."""

import asyncio
import os
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from bench.figures import Figure, at_most, shown
from bench.rig import Rig, rig
from cluster.servers.ports import free_port
from cluster.servers.process import eventually

REST_S = float(os.environ.get("BENCH_REST_S", "60"))
"""1800 for the half hour of the promise."""
SETTLE_S = 8.0
STARTS = 10
MIB_MOST, CPU_PERCENT_MOST, REQUESTS_PER_S_MOST, START_S_MOST = 64.0, 0.2, 0.1, 1.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


async def measure() -> list[Figure]:
    """Measure memory, CPU, requests to Consul and file descriptors at rest, then starts beside a running release."""
    count = Counter()
    async with count.listening() as port, rig({}, count.through(port)) as made:
        return [*await _at_rest(made, count), await _starts(made)]


class Counter:
    """A proxy in front of Consul that counts the requests on their way."""

    def __init__(self) -> None:
        self.requests = 0
        self.behind = 0

    def through(self, port: int) -> Callable[[str], str]:
        """Return how an agent reaches Consul through the proxy at *port*."""

        def address(consul: str) -> str:
            self.behind = int(consul.rpartition(":")[2])
            return f"http://127.0.0.1:{port}"

        return address

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Listen on the port that is yielded."""
        port = free_port()
        async with await asyncio.start_server(self._serve, "127.0.0.1", port):
            yield port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.behind)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry(reader, back, is_request=True))
            group.create_task(self._carry(there, writer, is_request=False))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_request: bool) -> None:
        try:
            while data := await source.read(65536):
                self.requests += data.count(b" HTTP/1.1\r\n") if is_request else 0
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


async def _at_rest(made: Rig, count: Counter) -> list[Figure]:
    await asyncio.sleep(SETTLE_S)
    proc = Path(f"/proc/{made.host.agent.pid}")
    before, requests, fds, mib = _cpu_s(proc), count.requests, _fds(proc), _mib(proc)
    await asyncio.sleep(REST_S)
    cpu = (_cpu_s(proc) - before) / REST_S * 100
    asked = (count.requests - requests) / REST_S
    return [
        at_most("at rest: resident memory", _mib(proc), "MiB", MIB_MOST),
        shown(f"at rest: growth in {REST_S:.0f} s", _mib(proc) - mib, "MiB"),
        at_most("at rest: CPU of one core", cpu, "%", CPU_PERCENT_MOST),
        at_most("at rest: requests to Consul", asked, "1/s", REQUESTS_PER_S_MOST),
        at_most("at rest: further file descriptors", _fds(proc) - fds, "", 0),
    ]


async def _starts(made: Rig) -> Figure:
    samples = []
    url = f"http://127.0.0.1:{made.host.settings.api.port}/readyz"

    async def is_ready() -> bool:
        return await asyncio.to_thread(_answers, url)

    for _ in range(STARTS):
        await made.host.stop_agent()
        began = time.monotonic()
        await made.host.start_agent()
        await eventually(is_ready, deadline_s=10)
        samples.append(time.monotonic() - began)
    return at_most(f"start to ready beside a running release, median of {STARTS}", median(samples), "s", START_S_MOST)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.HTTPError, OSError):
        return False


def _cpu_s(proc: Path) -> float:
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _mib(proc: Path) -> float:
    line = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def _fds(proc: Path) -> int:
    return len(list((proc / "fd").iterdir()))

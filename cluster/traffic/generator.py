"""
Steady mixed traffic to one site for a whole deploy, in a process of its own.

The load is open-loop: every request goes out by the clock, however slow earlier ones are. Tests use `Traffic`, which
starts this module as a program so that the generator and the agent under test share no event loop; a person may run
it by hand:

    python -m cluster.traffic.generator --target 127.0.0.1:8080 --seconds 15 --out outcome.json
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster.traffic.clients import Clients, Mix
from cluster.traffic.record import Fault, Kind, Outcome, Record

PROGRESS_EVERY_S = 0.25
LONGEST_RUN_S = 900.0
"""A forgotten generator ends by itself."""
_ROOT = Path(__file__).resolve().parents[2]


class TrafficBrokenError(Exception):
    """The generator itself failed; nothing was measured."""


@dataclass(frozen=True, slots=True)
class KindCount:
    """One kind so far; `versions` counts the answers of the last quarter of a second."""

    requests: int
    failed: dict[Fault, int]
    versions: dict[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run in progress."""

    elapsed_s: float
    open: int
    visitors: int
    kinds: dict[Kind, KindCount]

    @property
    def requests(self) -> int:
        return sum(count.requests for count in self.kinds.values())

    @property
    def failed(self) -> int:
        return sum(sum(count.failed.values()) for count in self.kinds.values())

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields: dict[str, Any] = json.loads(text)
        kinds = {Kind(kind): KindCount(**count) for kind, count in fields.pop("kinds").items()}
        return cls(**fields, kinds=kinds)


class Traffic:
    """
    A generator process: `async with Traffic("127.0.0.1:8080") as traffic`, then `snapshot` and `stop`.

    Leaving the block without `stop` (a test that failed) ends the process and forgets the run.
    """

    def __init__(self, *targets: str, mix: Mix | None = None) -> None:
        self._targets = targets
        self._mix = mix or Mix()
        self._files = tempfile.TemporaryDirectory(prefix="traffic-")
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self._end()

    def snapshot(self) -> Snapshot:
        """
        Return the latest counters, at most about a quarter of a second old.

        Raises:
            TrafficBrokenError: the generator has ended.
        """
        if self._process is None or self._process.returncode is not None:
            raise TrafficBrokenError(self._complaint())
        return Snapshot.from_json(self._progress()[-1])

    async def stop(self) -> Outcome:
        """
        Send no more, let what is open finish, and return the whole run. Takes as long as the longest stream.

        Raises:
            TrafficBrokenError: the generator failed.
        """
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(self._mix.finish_s + 10):
            code = await self._process.wait()
        if code != 0:
            raise TrafficBrokenError(self._complaint())
        return Outcome.from_json(await asyncio.to_thread((Path(self._files.name) / "outcome.json").read_text))

    async def _start(self) -> None:
        directory = Path(self._files.name)
        targets = [argument for target in self._targets for argument in ("--target", target)]
        with (directory / "progress").open("wb") as progress, (directory / "errors").open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cluster.traffic.generator", *targets, "--mix", json.dumps(asdict(self._mix))),
                *("--out", str(directory / "outcome.json"), "--while-stdin-is-open"),
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=progress,
                stderr=errors,
            )
        async with asyncio.timeout(10):
            while not self._progress():
                if self._process.returncode is not None:
                    raise TrafficBrokenError(self._complaint())
                await asyncio.sleep(0.02)

    async def _end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._files.cleanup()

    def _progress(self) -> list[str]:
        """Complete lines only: the last one may be half written."""
        lines = (Path(self._files.name) / "progress").read_text().splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]

    def _complaint(self) -> str:
        text = (Path(self._files.name) / "errors").read_text()[-2000:]
        return f"the traffic generator has ended: {text or 'without a word'}"


async def generate(clients: Clients, mix: Mix, record: Record, stop: asyncio.Event) -> None:
    """Send *mix* until *stop*, then wait for what is open; what is not done in time has failed."""
    loop = asyncio.get_running_loop()
    sources: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
        (mix.new_rate, clients.ask_anew),
        (mix.keepalive_rate, clients.ask_again),
        (mix.slow_rate, clients.ask_slowly),
        (mix.stream_rate, clients.stream),
        (mix.websocket_rate, clients.converse),
    )
    try:
        async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as group:
            for rate, send in sources:
                if rate > 0:
                    group.create_task(_pace(rate, send, record, stop), name=f"pace-{send.__name__}")
            for chair in range(mix.visitors):
                group.create_task(_seat(clients, mix, stop, chair / mix.visitors), name=f"chair-{chair}")
            await stop.wait()
            record.sending_s = time.monotonic() - record.started_at
            deadline.reschedule(loop.time() + mix.finish_s)
    except TimeoutError:
        pass  # every request that was cut off here has counted itself as failed
    finally:
        clients.close()


async def _pace(rate: float, send: Callable[[], Awaitable[None]], record: Record, stop: asyncio.Event) -> None:
    """Start one *send* at each tick of the clock. One that is late goes at once: no tick is left out."""
    loop = asyncio.get_running_loop()
    next_at = loop.time()
    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            await asyncio.sleep(next_at - loop.time())
            record.late_max_s = max(record.late_max_s, loop.time() - next_at)
            group.create_task(_awaited(send), name=send.__name__)
            next_at += 1 / rate


async def _awaited(send: Callable[[], Awaitable[None]]) -> None:
    await send()


async def _seat(clients: Clients, mix: Mix, stop: asyncio.Event, share: float) -> None:
    """Have one visitor after the other. The first ones come and go at different times, as later ones do."""
    await asyncio.sleep(share * mix.visit_every_s)
    longest_s = max(share * mix.visit_max_s, mix.visit_every_s)
    while not stop.is_set():
        await clients.visit(longest_s, stop.is_set)
        longest_s = mix.visit_max_s


async def _report(record: Record, stop: asyncio.Event, seconds: float) -> None:
    while True:
        print(json.dumps(record.progress()), flush=True)
        if time.monotonic() - record.started_at >= seconds:
            stop.set()
        await asyncio.sleep(PROGRESS_EVERY_S)


async def _run(arguments: argparse.Namespace) -> Outcome:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    if arguments.while_stdin_is_open:
        loop.add_reader(sys.stdin.fileno(), _stop_at_end, loop, stop)
    mix = Mix(**json.loads(arguments.mix))
    record = Record()
    clients = Clients(tuple(arguments.target), mix, record, random.Random(arguments.seed))
    async with asyncio.TaskGroup() as group:
        report = group.create_task(_report(record, stop, arguments.seconds), name="report")
        await generate(clients, mix, record, stop)
        report.cancel()
    print(json.dumps(record.progress()), flush=True)
    return record.outcome()


def _stop_at_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop when whoever started this has gone."""
    if not os.read(sys.stdin.fileno(), 1024):
        loop.remove_reader(sys.stdin.fileno())
        stop.set()


def _target(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.traffic.generator", description=__doc__)
    parser.add_argument(
        "--target", action="append", required=True, type=_target, help="host:port; several are taken at random"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the outcome goes, as JSON")
    parser.add_argument("--mix", default="{}", help="fields of Mix that differ from the defaults, as JSON")
    parser.add_argument("--seconds", type=float, default=LONGEST_RUN_S, help="stop by itself after that long")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--while-stdin-is-open", action="store_true", help="stop when standard input ends")
    arguments = parser.parse_args()
    outcome = asyncio.run(_run(arguments))
    arguments.out.write_text(outcome.to_json())


if __name__ == "__main__":
    main()

"""
Deploy to a whole fleet under traffic and say what became of it: ``make demo``, or ``python -m cluster.demo.fleet``.

The local cluster comes up from nothing: three Consul servers, three hosts, a registry, an edge. Release a is deployed,
then b under traffic, then an image that is never healthy. The last line of the output is one line of JSON. Where no
such cluster can run, the demo of one host plays in its place, and says why.

Exit status: 0 nothing was lost and the bad image was refused; 1 it was not so; 2 something could not start;
130 interrupted. With KEEP=1 everything is left running after the verdict, until Ctrl-C.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from rich.console import Console

from agent.core.model.record import Phase
from cluster.cluster import Cluster, make
from cluster.demo.result import Result, phases_of, print_result
from cluster.demo.screen import Picture, Screen
from cluster.guide import tell
from cluster.scenarios.cluster import MIX, WEBS, ClusterScenario, PushedImages
from cluster.servers.dockerd import docker_daemon
from cluster.servers.tools import LabError
from cluster.settings import AppPlan
from cluster.traffic.generator import Traffic, TrafficBrokenError

EXIT_BAD, EXIT_NO_START, EXIT_INTERRUPTED = 1, 2, 130
HOLD_S = 3.0
"""A state is held so long for a person to see it."""


class NoClusterError(Exception):
    """No cluster of whole machines can run here."""


class Demo:
    """One demo, from nothing to clean-up."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._screen = Screen(self._console)

    async def run(self) -> int:
        """Run to the end; returns the exit status when all is gone."""
        self._screen.say("Tidegate: three hosts under traffic, on which version b replaces version a", "bold")
        async with self._fleet() as (cluster, test_images, boot_s):
            scenario = ClusterScenario(cluster, test_images.a)
            result = await self._under_traffic(scenario, test_images, boot_s)
            self._screen.close()
            print_result(self._console, result)
            skew_s = await skew_of(cluster)
            self._console.print(f"hosts: {len(WEBS)}; from the first that switched to the last: {skew_s:.2f} s")
            if self._keep:
                tell(cluster)
                print("Ctrl-C here stops and removes all of it.")
            last_line = json.dumps(json.loads(result.to_json()) | {"hosts": len(WEBS), "skew_s": round(skew_s, 3)})
            if self._keep:
                print(last_line, flush=True)
                await _until_signal()
        if not self._keep:
            print(last_line, flush=True)
        return EXIT_BAD if result.shortcomings else 0

    @asynccontextmanager
    async def _fleet(self) -> AsyncIterator[tuple[Cluster, PushedImages, float]]:
        async with docker_daemon() as docker:
            self._screen.say("building the machines (a minute or two for the first time)")
            cluster = await make(docker, f"demo-{uuid.uuid4().hex[:6]}", AppPlan())
            try:
                began_at = time.monotonic()
                self._screen.say("starting six machines with systemd, a registry and the edge")
                try:
                    await cluster.up(len(WEBS))
                except (LabError, BaseExceptionGroup) as exc:
                    raise NoClusterError(_first_line(exc)) from exc
                images = cluster.images()
                test_images = PushedImages(
                    a=cluster.reference(await images.testapp("a")),
                    b=cluster.reference(await images.testapp("b")),
                    sick=cluster.reference(await images.testapp("bad", env={"UNHEALTHY": "1", "LOG": "1"})),
                )
                self._screen.hidden = test_images.a.partition("/")[0]
                await self._deploy(ClusterScenario(cluster, ""), test_images.a, "--wait", "switched")
                boot_s = time.monotonic() - began_at
                self._screen.say(f"the fleet serves a, {boot_s:.0f} s after there was nothing", "green")
                yield cluster, test_images, boot_s
            finally:
                self._screen.say("removing machines, network, volumes and files")
                await cluster.down()

    async def _under_traffic(self, scenario: ClusterScenario, test_images: PushedImages, boot_s: float) -> Result:
        problem, refusal = "", ""
        await scenario.until_phase(Phase.SUCCESSFUL)
        async with scenario.traffic() as traffic:
            rate = MIX.new_rate + MIX.keepalive_rate + MIX.visitors / MIX.visit_every_s
            self._screen.say(f"traffic of six kinds through the edge: {rate:.0f} requests a second")
            watching = asyncio.create_task(self._watch(traffic), name="watch")
            try:
                await asyncio.sleep(HOLD_S)
                await self._deploy(scenario, test_images.b, "--wait", "done")
                self._screen.say("every host serves b, and a is gone", "green")
                deployed = await scenario.history()
                began_at = time.monotonic()
                refusal = await self._refuse(scenario, test_images.sick)
                refused_s = time.monotonic() - began_at
            except LabError as exc:
                problem, deployed, refused_s = str(exc), await scenario.history(), 0.0
                self._screen.say(problem, "bold red")
            finally:
                watching.cancel()
            self._screen.say("the traffic ends; what is open is finished")
            outcome = await traffic.stop()
        seen = {"boot": boot_s, **durations(deployed)} | ({"refuse": refused_s} if refusal else {})
        committed_at = commit_of(deployed)
        return Result(
            outcome=outcome,
            verdict=await scenario.verdict(outcome),
            phases=phases_of(seen, outcome, None if committed_at is None else outcome.at_wall(committed_at)),
            refusal=refusal,
            problem=problem,
        )

    async def _deploy(self, scenario: ClusterScenario, image: str, *options: str) -> None:
        """Deploy as an operator does, and show what the command says."""
        self._screen.say(f"$ tidegate deploy {image}")
        said = await scenario.deploy(image, *options)
        for line in said.out.splitlines():
            self._screen.tell(line)

    async def _refuse(self, scenario: ClusterScenario, image: str) -> str:
        """Offer an image that never gets healthy; return why it was refused."""
        self._screen.say(f"$ tidegate deploy {image}   (it is never healthy)")
        said = await (await scenario.begin(image, "--wait", "done")).said(deadline_s=120)
        for line in said.out.splitlines()[-6:]:
            self._screen.tell(line)
        record = await scenario.record()
        if said.code == 0 or record is None or record.phase is not Phase.ABORTED:
            raise LabError("the bad image was not refused")
        self._screen.say(f"refused: {record.why}; visitors still get b", "green")
        return self._screen.short(record.why)

    async def _watch(self, traffic: Traffic) -> None:
        while True:
            self._screen.show(Picture(None, traffic.snapshot()))
            await asyncio.sleep(0.25)


def durations(history: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Return how long the phases of the last rollout took, in seconds, from its audit entries."""
    entered = {entry["to"]: _at(entry) for entry in history}
    names = {"stage": Phase.STAGING, "drain": Phase.BAKING, "retire": Phase.RETIRING}
    ends = {Phase.STAGING: Phase.READY, Phase.BAKING: Phase.RETIRING, Phase.RETIRING: Phase.SUCCESSFUL}
    return {
        name: entered[ends[phase]] - entered[phase]
        for name, phase in names.items()
        if phase in entered and ends[phase] in entered
    }


def commit_of(history: Sequence[Mapping[str, str]]) -> float | None:
    """Return the Unix time of the last commit; None without one."""
    return next((_at(entry) for entry in reversed(history) if entry["to"] == Phase.SWITCHING), None)


async def skew_of(cluster: Cluster) -> float:
    """Return the seconds from the first host's last switch to the last host's, as their agents logged them."""
    times = []
    for web in await cluster.webs():
        switches = [line for line in (await web.journal("tidegate-agent", lines=2000)).splitlines() if _switches(line)]
        times.append(datetime.fromisoformat(json.loads(switches[-1])["timestamp"]).timestamp())
    return max(times) - min(times)


def _switches(line: str) -> bool:
    if not line.startswith("{"):
        return False
    actions = json.loads(line).get("actions", [])
    return any(action.startswith("switch to slot") for action in actions)


def _at(entry: Mapping[str, str]) -> float:
    return datetime.fromisoformat(entry["at"]).timestamp()


def _first_line(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return str(exc).splitlines()[0]


async def _until_signal() -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m cluster.demo.fleet", description="Deploy to a fleet, and judge."
    ).parse_args()
    # To be ended by a signal is to be interrupted: all is removed either way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        status = asyncio.run(Demo(keep=os.environ.get("KEEP", "") not in ("", "0")).run())
    except NoClusterError as exc:
        print(f"demo: no cluster can run here ({exc}); playing on one host", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, "-m", "cluster.demo.one_host"])
    except KeyboardInterrupt:
        print("stopped; nothing of it is left", file=sys.stderr)
        status = EXIT_INTERRUPTED
    except (LabError, TrafficBrokenError, OSError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        status = EXIT_NO_START
    sys.exit(status)


if __name__ == "__main__":
    main()

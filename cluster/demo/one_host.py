"""
Deploy under traffic on this machine and say what became of it: ``make demo``, or ``python -m cluster.demo.one_host``.

Everything runs on free loopback ports, in a Docker network and temporary directories of its own, and is gone in the
end; two demos may run at the same time. The last line of the output is one line of JSON.

Exit status: 0 nothing was lost and the bad image was refused; 1 it was not so; 2 something could not start;
130 interrupted. With KEEP=1 everything is left running after the verdict, until Ctrl-C.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from cluster.demo.result import Result, phases_of, print_result
from cluster.demo.screen import Screen
from cluster.demo.servers import Lab, demo_lab, how_to_play
from cluster.demo.steps import BRIEF, KNOBS, UNHURRIED, Pace, Scenario
from cluster.servers.tools import LabError
from cluster.traffic.generator import Traffic, TrafficBrokenError
from cluster.traffic.verdict import Rules, judge

EXIT_BAD, EXIT_NO_START, EXIT_INTERRUPTED = 1, 2, 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.demo.one_host", description="Deploy under traffic, and judge."
    )
    parser.add_argument("--brief", action="store_true", help="shorter visits and pauses, for tests")
    arguments = parser.parse_args()
    demo = Demo(BRIEF if arguments.brief else UNHURRIED, keep=os.environ.get("KEEP", "") not in ("", "0"))
    sys.exit(asyncio.run(demo.run()))


class Demo:
    """One demo, from start to clean-up."""

    def __init__(self, pace: Pace, *, keep: bool) -> None:
        self._pace = pace
        self._keep = keep
        self._console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._screen = Screen(self._console)
        self._interrupted = False

    async def run(self) -> int:
        """Run to the end or to a signal; returns the exit status when all is gone."""
        self._cancel_on_signals()
        try:
            with self._screen:
                status = await self._demonstrate()
        except (asyncio.CancelledError, LabError, TrafficBrokenError, OSError) as exc:
            # Ctrl-C also reaches the programs that the lab waits for; that they fail then means nothing.
            if not self._interrupted:
                if isinstance(exc, asyncio.CancelledError):
                    raise
                _complain(f"demo: {exc}")
                return EXIT_NO_START
            status = EXIT_INTERRUPTED
        if self._interrupted:
            _complain("stopped; nothing of it is left")
        return status

    def _cancel_on_signals(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop() -> None:
            self._interrupted = True
            for number in _SIGNALS:
                # A second Ctrl-C must stop neither the cleaning up nor the commands that it runs.
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
            self._screen.close()
            _complain("\nstopping: removing containers, network, servers and their files ...")
            task.cancel()

        for number in _SIGNALS:
            loop.add_signal_handler(number, stop)

    async def _demonstrate(self) -> int:
        self._screen.say("Tidegate: a host under traffic, on which version b replaces version a", "bold")
        self._screen.say("starting Consul, a registry and HAProxy; building images a, b and a bad one")
        async with demo_lab(KNOBS) as lab:
            self._screen.hidden = lab.registry
            self._screen.say(f"Consul is at {lab.consul.address}, the site at http://{lab.host.target}/")
            scenario = Scenario(lab, self._screen, self._pace)
            async with _logs_kept_on_failure(lab):
                await scenario.boot()
            result = await self._under_traffic(scenario, lab)
            self._screen.close()
            print_result(self._console, result)
            if result.shortcomings:
                self._console.print(f"logs and failed requests are kept in {_keep_logs(lab, result)}", style="dim")
            if self._keep:
                how_to_play(self._console, lab)
            print(result.to_json(), flush=True)
            if self._keep:
                await self._wait_for_signal()
        return EXIT_BAD if result.shortcomings else 0

    async def _under_traffic(self, scenario: Scenario, lab: Lab) -> Result:
        problem = ""
        mix = self._pace.mix
        async with Traffic(lab.host.target, mix=mix) as traffic:
            rate = mix.new_rate + mix.keepalive_rate + mix.visitors / mix.visit_every_s
            self._screen.say(f"traffic of six kinds begins: {rate:.0f} requests a second, {mix.visitors} visitors")
            try:
                await scenario.watch(traffic)
                await scenario.deploy()
                await scenario.refuse()
            except LabError as exc:
                problem = str(exc)
                self._screen.say(problem, "bold red")
            self._screen.say("the traffic ends; what is open is finished")
            outcome = await traffic.stop()
        notes = scenario.notes
        return Result(
            outcome=outcome,
            verdict=judge(outcome, notes.events, Rules(visit_idle_s=lab.visit_idle_s)),
            phases=phases_of(notes.phases, outcome, notes.activated_at),
            refusal=notes.refusal,
            problem=problem,
        )

    async def _wait_for_signal(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            # To be stopped is how this ends; it is no failure of the demo.
            task.uncancel()


@asynccontextmanager
async def _logs_kept_on_failure(lab: Lab) -> AsyncIterator[None]:
    try:
        yield
    except LabError as exc:
        first = str(exc).splitlines()[0].rstrip(":")
        raise LabError(f"{first}; logs are kept in {_keep_logs(lab)}") from exc


def _keep_logs(lab: Lab, result: Result | None = None) -> Path:
    """Copy what the servers logged, and the requests that failed, to a directory that stays."""
    directory = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    for log in (*lab.host.home.glob("*.log"), *lab.consul.home.glob("*.log")):
        shutil.copy(log, directory)
    if result is not None:
        lines = (f"{failure}\n" for failure in result.outcome.failures)
        (directory / "failed-requests.txt").write_text("".join(lines))
    return directory


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

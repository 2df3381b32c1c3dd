"""What happens to the cluster in a test: commands as an operator gives them, and events as the audit entries tell."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from agent.adapters.consul.fleet import read_fleet, read_keys, write_change
from agent.adapters.consul.policies import Role
from agent.adapters.consul.wire import TxnDone
from agent.core.model.errors import TidegateError
from agent.core.model.keys import histories
from agent.core.model.names import AppName
from agent.core.model.record import Phase
from agent.core.model.report import NodeReport
from agent.core.rollout.change import writes_of
from agent.core.rollout.commands import CommandAuthor, current, promote
from agent.core.rollout.decision import Decision
from cluster.cluster import TIDEGATE, Cluster
from cluster.machine import PAUSE_S, Machine, until_ready
from cluster.scenarios.fleet import DEED_S, KNOBS, VISIT_IDLE_S, events_of, version_of
from cluster.servers.fleet import Command, Said
from cluster.servers.process import eventually
from cluster.servers.tools import LabError
from cluster.settings import APP
from cluster.traffic.clients import Mix
from cluster.traffic.generator import Traffic
from cluster.traffic.record import Outcome
from cluster.traffic.verdict import Event, EventKind, Rules, Verdict, judge

MIX = Mix(
    new_rate=50,
    keepalive_rate=50,
    visitors=24,
    visit_min_s=2,
    visit_max_s=5,
    stream_ms=3000,
    slow_ms=1500,
    websocket_s=3,
)
"""All kinds at once, about 150 requests a second: six machines and their engines share the processors with it."""
LASTING = replace(MIX, stream_ms=6000, websocket_s=6)
"""Streams and conversations that outlast what a host waits in any case before it stops."""
WEBS = ("web-1", "web-2", "web-3")


@dataclass(frozen=True, slots=True)
class PushedImages:
    """References of what is in the registry, as machines call it: two that work, one that is never healthy."""

    a: str
    b: str
    sick: str

    def other(self, version: str) -> str:
        """Return what is not *version*."""
        return self.b if version == "a" else self.a


@dataclass(slots=True)
class ClusterScenario:
    """The cluster under traffic, from the release that served when it began."""

    cluster: Cluster
    began_with: str
    """The image that served."""

    @property
    def version(self) -> str:
        """What the app that served says it is."""
        return version_of(self.began_with)

    @asynccontextmanager
    async def traffic(self, mix: Mix = MIX) -> AsyncIterator[Traffic]:
        """Send through the edge; returns when the edge serves."""
        async with Traffic(self.cluster.site, mix=mix) as traffic:
            await asyncio.sleep(1)
            yield traffic

    async def deploy(self, image: str, *options: str) -> Said:
        """Deploy to the end that the options ask for; LabError if it does not come to it."""
        said = await (await self.begin(image, *options)).said(deadline_s=120)
        if said.code != 0:
            raise LabError(f"deploy ended with {said.code}:\n{said.out}\n{said.err}\n{await self._told()}")
        return said

    async def begin(self, image: str, *options: str) -> Command:
        """Deploy and return at once; the command runs on."""
        return await self._start("deploy", image, "--reason", "a test", *KNOBS, *options)

    async def command(self, name: str, *options: str, role: Role = Role.OPERATOR) -> Said:
        """Give another command to its end."""
        return await (await self._start(name, *options, role=role)).said()

    async def promote_at_once(self) -> None:
        """
        Promote from this process, within milliseconds: the command takes seconds to start on a busy machine.

        An agent that was frozen just before counts as away soon, and no commit comes while a host is away.
        """
        by = CommandAuthor("a test", "", time.time())
        async with self.cluster.client() as client:
            reading = await read_fleet(client, AppName(APP))
            change = promote(reading.keys, by)
            writes = writes_of(AppName(APP), change, reading.indexes, by=by.author, now=by.at)
            result = await write_change(client, AppName(APP), writes)
        if not isinstance(result, TxnDone):
            raise LabError(f"the promotion was not written: {result}")

    async def record(self) -> Decision | None:
        """Return the record; None before the first rollout, or while Consul does not answer."""
        try:
            async with self.cluster.client() as client:
                return current(await read_keys(client, AppName(APP)))
        except TidegateError:
            return None

    async def until(self, condition: Callable[[Decision], bool], *, deadline_s: float = 90.0) -> Decision:
        """Wait until the record meets *condition*; LabError with the history where it does not."""
        last: Decision | None = None

        async def met() -> bool:
            nonlocal last
            last = await self.record() or last
            return last is not None and condition(last)

        if not await eventually(met, deadline_s=deadline_s):
            shown = f"{last.phase}: {last.why}" if last else "no record"
            raise LabError(f"not within {deadline_s} s; {shown}\n{await self._told()}")
        assert last is not None
        return last

    async def until_phase(self, *phases: Phase, deadline_s: float = 90.0) -> Decision:
        """Wait until the rollout is in one of *phases*."""
        return await self.until(lambda record: record.phase in phases, deadline_s=deadline_s)

    async def until_reached(self, phase: Phase, *, deadline_s: float = 90.0) -> None:
        """Wait until the last rollout has entered *phase*, though it may have left it again."""
        record = await self.record()
        generation = record.generation if record else 0

        async def reached() -> bool:
            with contextlib.suppress(TidegateError):
                return any(entry["to"] == phase for entry in await self.history(generation))
            return False

        if not await eventually(reached, deadline_s=deadline_s):
            raise LabError(f"{phase} not reached within {deadline_s} s\n{await self._told()}")

    async def until_serves(self, machine: Machine, image: str, *, deadline_s: float = 60.0) -> NodeReport:
        """Wait until new visitors of *machine* get *image*."""
        last: NodeReport | None = None

        async def serves() -> bool:
            nonlocal last
            last = await machine.report()
            if last is not None and image_of(last).startswith(image):
                return True
            await asyncio.sleep(PAUSE_S)
            return False

        if not await eventually(serves, deadline_s=deadline_s):
            log = await machine.journal("tidegate-agent")
            raise LabError(f"{machine.name} does not serve {image}: {last}\n{log}")
        assert last is not None
        return last

    async def history(self, generation: int | None = None) -> list[dict[str, str]]:
        """Return all audit entries, or those of one rollout, in the order of their writing."""
        prefix = histories(AppName(APP)) + ("" if generation is None else f"{generation}/")
        async with self.cluster.client() as client:
            entries = (await client.list(prefix)).entries
        ordered = sorted(entries, key=lambda entry: tuple(int(part) for part in entry.key.split("/")[-2:]))
        return [json.loads(entry.value) for entry in ordered]

    async def verdict(self, outcome: Outcome, *, settle_s: float = 3.0) -> Verdict:
        """Judge the whole run by what was decided meanwhile."""
        events = [Event(EventKind.ACTIVATED, self.version, outcome.started_at - 60)]
        events += [event for event in events_of(await self.history(), outcome) if event.at > outcome.started_at]
        return judge(outcome, events, Rules(visit_idle_s=VISIT_IDLE_S, deed_s=DEED_S, settle_s=settle_s))

    async def _start(self, *arguments: str, role: Role = Role.OPERATOR) -> Command:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("CONSUL_", "TIDEGATE_"))}
        process = await asyncio.create_subprocess_exec(
            *(TIDEGATE, *arguments, "--app", APP),
            env={**env, **self.cluster.environment(role)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return Command(process)

    async def _told(self) -> str:
        lines = [json.dumps(entry) for entry in (await self.history())[-8:]]
        lines += [
            f"{web.name}: {report.summary if (report := await web.report()) else 'no answer'}"
            for web in await self.cluster.webs()
        ]
        return "\n".join(lines)


def image_of(report: NodeReport) -> str:
    """Return the image that new visitors of a host get; empty where none serves."""
    return next((slot.image for slot in report.slots.values() if slot.is_up), "")


async def at_rest(cluster: Cluster) -> ClusterScenario:
    """Bring everything back that the test before has stopped, and wait until nothing is in progress."""
    await cluster.mend(len(WEBS))
    await asyncio.gather(*(until_ready(web, deadline_s=90) for web in await cluster.webs()))
    async with cluster.consul() as consul:
        active = await consul.get(f"{APP}/active/image") or ""
    scenario = ClusterScenario(cluster, active)
    if await scenario.record() is not None:
        await scenario.until(lambda record: record.phase.is_terminal)
    for web in await cluster.webs():
        await scenario.until_serves(web, active.partition("@")[0])
    return scenario

"""What happens to a fleet in a test, and when: commands as people give them, and events as the audit entries tell."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from agent.adapters.consul.fleet import FleetReading, read_fleet, read_keys
from agent.core.model.errors import TidegateError
from agent.core.model.keys import histories
from agent.core.model.names import AppName
from agent.core.model.record import Phase
from agent.core.model.states import SlotPhase
from agent.core.rollout.commands import current
from agent.core.rollout.decision import Decision
from cluster.servers.fleet import Command, Fleet, Said
from cluster.servers.process import eventually
from cluster.servers.tools import LabError
from cluster.traffic.clients import Mix
from cluster.traffic.record import Outcome
from cluster.traffic.verdict import Event, EventKind, Rules, Verdict, judge

MIX = Mix(visit_min_s=2, visit_max_s=5, stream_ms=3000, slow_ms=1500, websocket_s=3)
"""Five kinds at once, over 300 requests a second; short, so that a release is soon used by nobody."""
VISIT_IDLE_S = 4.0
ELECTION_S = 20.0
"""Time in which hosts have read what Consul says though its leader died: an election, and their own pauses."""
KNOBS = (
    *("--min-healthy-time", "1s", "--bake-time", "2s", "--drain-idle", "3s", "--drain-timeout", "60s"),
    *("--stop-grace-period", "3s", "--progress-deadline", "60s", "--lost-after", "20s"),
)


DEED_S = 2.0
"""From an audit entry to all hosts' deed: a host that has read twice just now reads again after a second."""


@dataclass(slots=True)
class FleetScenario:
    """A fleet under traffic, from the release that served when it began."""

    fleet: Fleet
    began_with: str
    """The image that served."""
    _begun: list[Command] = field(default_factory=list)

    @property
    def version(self) -> str:
        """What the app that served says it is."""
        return version_of(self.began_with)

    async def settled(self) -> None:
        """End what is in progress; wait until one coordinator leads, and a slot is free on every host."""
        record = (await self.reading()).record
        if record is not None and not record.phase.is_terminal:  # the test before has failed
            for name in ("abort", "rollback"):
                await self.command(name, "--detach")
            await self.until(lambda record: record.phase.is_terminal, deadline_s=120)

        async def has_holder() -> bool:
            return bool(await self.fleet.holder())

        if not await eventually(has_holder, deadline_s=40):
            raise LabError(f"no coordinator holds the lock\n{await self._told()}")
        for host in self.fleet.hosts.values():
            await host.until(lambda report: any(slot.phase is SlotPhase.EMPTY for slot in report.slots.values()))

    async def serves(self, release: str) -> frozenset[str]:
        """Return the hosts whose new visitors get *release*."""
        reports = {node: await host.report() for node, host in self.fleet.hosts.items()}
        return frozenset(
            node
            for node, report in reports.items()
            if report and any(slot.release == release and slot.is_up for slot in report.slots.values())
        )

    async def containers(self) -> frozenset[str]:
        """Return the ids of all containers of the fleet."""
        reports = [await host.report() for host in self.fleet.hosts.values()]
        return frozenset(
            slot.container for report in reports if report for slot in report.slots.values() if slot.container
        )

    async def kill_coordinator(self) -> str:
        """Kill the one that holds the lock, at once; return its name."""
        name = await self.fleet.holder()
        self.fleet.coordinators[name].agent.kill()
        return name

    async def deploy(self, image: str, *options: str) -> Said:
        """Deploy to the end that the options ask for."""
        return await self.fleet.cli("deploy", image, *self._common(), *KNOBS, *options)

    async def begin(self, image: str, *options: str) -> Command:
        """Deploy and return at once; the command runs on."""
        return await self.start("deploy", image, *KNOBS, *options)

    async def command(self, name: str, *options: str) -> Said:
        """Give another command (promote, abort, rollback, pause, resume), and follow it as it does by itself."""
        return await (await self.start(name, *options)).said()

    async def start(self, name: str, *options: str) -> Command:
        """Give another command and return at once."""
        command = await self.fleet.begin(name, *self._common(), *options)
        self._begun.append(command)
        return command

    async def reading(self) -> FleetReading:
        """Read everything, with the management token."""
        async with self.fleet.client() as client:
            return await read_fleet(client, AppName(self.fleet.app))

    async def until(self, condition: Callable[[Decision], bool], *, deadline_s: float = 60.0) -> Decision:
        """
        Wait until the record meets *condition*; return it.

        Raises:
            LabError: not within *deadline_s*, with the record and its history.
        """
        last: Decision | None = None

        async def met() -> bool:
            nonlocal last
            try:
                async with self.fleet.client() as client:
                    last = current(await read_keys(client, AppName(self.fleet.app))) or last
            except TidegateError:
                return False
            return last is not None and condition(last)

        if not await eventually(met, deadline_s=deadline_s):
            shown = "no record" if last is None else f"{last.phase}: {last.why}"
            raise LabError(f"not within {deadline_s} s; {shown}\n{await self._told()}")
        assert last is not None
        return last

    async def until_phase(self, *phases: Phase, deadline_s: float = 60.0) -> Decision:
        """Wait until the rollout is in one of *phases*."""
        return await self.until(lambda record: record.phase in phases, deadline_s=deadline_s)

    async def until_reached(self, generation: int, phase: Phase, *, deadline_s: float = 60.0) -> None:
        """Wait until that rollout has entered *phase*, though it may have left it again."""

        async def reached() -> bool:
            try:
                return any(entry["to"] == phase for entry in await self.history(generation))
            except TidegateError:
                return False

        if not await eventually(reached, deadline_s=deadline_s):
            raise LabError(f"{phase} not reached within {deadline_s} s\n{await self._told()}")

    async def generation(self) -> int:
        """Return the number of the last rollout; 0 before the first."""
        record = (await self.reading()).record
        return record.generation if record else 0

    async def insist(self, name: str) -> bool:
        """Give a command until it is taken, for a minute at most: Consul may have no leader just now."""

        async def taken() -> bool:
            return (await self.command(name, "--detach")).code == 0

        return await eventually(taken, deadline_s=60)

    async def history(self, generation: int | None = None) -> list[dict[str, str]]:
        """Return all audit entries, or those of one rollout, in the order of their writing."""
        prefix = histories(AppName(self.fleet.app)) + ("" if generation is None else f"{generation}/")
        async with self.fleet.client() as client:
            entries = (await client.list(prefix)).entries
        ordered = sorted(entries, key=lambda entry: tuple(int(part) for part in entry.key.split("/")[-2:]))
        return [json.loads(entry.value) for entry in ordered]

    async def verdict(self, outcome: Outcome, *, settle_s: float = 2.0) -> Verdict:
        """Judge the whole run by what was decided meanwhile."""
        events = [Event(EventKind.ACTIVATED, self.version, outcome.started_at - 60)]
        events += [event for event in events_of(await self.history(), outcome) if event.at > outcome.started_at]
        return judge(outcome, events, Rules(visit_idle_s=VISIT_IDLE_S, deed_s=DEED_S, settle_s=settle_s))

    def _common(self) -> tuple[str, ...]:
        return "--app", self.fleet.app, "--reason", "a test"

    async def _told(self) -> str:
        entries = "\n".join(json.dumps(entry) for entry in (await self.history())[-8:])
        reports = "\n".join(f"{node}: {report.summary}" for node, report in (await self.reading()).reports.items())
        logs = "\n".join(each.agent.log_tail(8) for each in self.fleet.coordinators.values() if each.agent.alive)
        ended = [await each.said() for each in self._begun if each.process.returncode is not None]
        return f"{entries}\n{reports}\n{logs}\n{ended}"


def version_of(image: str) -> str:
    """Return what the test app in *image* says it is: the tag's first part."""
    return image.partition("@")[0].rpartition(":")[2].partition("-")[0]


def events_of(history: Sequence[dict[str, str]], outcome: Outcome) -> list[Event]:
    """Turn audit entries into events; each was stamped just before it was written."""
    events: list[Event] = []
    for entry in history:
        kind = _kind_of(entry.get("from") or "", entry["to"])
        if kind is not None:
            at = outcome.at_wall(datetime.fromisoformat(entry["at"]).timestamp())
            events.append(Event(kind, version_of(entry["target"]), at))
    return events


def _kind_of(was: str, now: str) -> EventKind | None:
    match was, now:
        case Phase.READY, Phase.CANARY:
            return EventKind.CANARY
        case ((Phase.READY | Phase.AWAITING_PROMOTION), Phase.SWITCHING):
            return EventKind.ACTIVATED
        case _, Phase.ROLLING_BACK if was != Phase.ROLLING_BACK:
            return EventKind.ROLLED_BACK
        case _:
            return None


def proven(verdict: Verdict, outcome: Outcome, *, rate: float = 300.0) -> None:
    """Fail unless the run was steady enough to prove something, and nobody lost anything or was moved unasked."""
    assert outcome.rate >= rate, f"only {outcome.rate:.0f} requests/s were sent: this proves nothing"
    assert verdict.is_clean, f"{verdict}\n{outcome.failures[:5]}"


async def gone(command: Command, *, deadline_s: float = 10.0) -> None:
    """Wait until a command that was killed has ended."""
    async with asyncio.timeout(deadline_s):
        await command.process.wait()

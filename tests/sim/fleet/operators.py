"""Operators: each command reads, asks the real core what it comes to, and writes, through the agent's adapter."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.adapters.consul.fleet import read_keys, write_change
from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.wire import TxnDone
from agent.core.model import keys
from agent.core.model.errors import PermanentError, TidegateError
from agent.core.model.keys import KeySnapshot
from agent.core.model.names import ImageReference
from agent.core.model.report import NodeReport
from agent.core.rollout import commands
from agent.core.rollout.adopt import adopt
from agent.core.rollout.change import Change, Indexes, writes_of
from agent.core.rollout.commands import CommandAuthor
from agent.core.rollout.decision import Request
from agent.core.rollout.strategy import Strategy
from tests.sim.consul.link import Link
from tests.sim.consul.transport import SimTransport, client_over
from tests.sim.fleet.names import APP
from tests.sim.virtual_time import UNIX_S, Process
from tests.sim.world_clock import WorldClock

TRIES = 30
Command = Callable[[KeySnapshot, CommandAuthor], Change]


@dataclass(slots=True)
class CommandBug:
    """A bug planted into the commands."""

    deploy: Callable[..., Change] = commands.deploy
    change: Callable[[Change], Change] = lambda change: change


@dataclass(slots=True, eq=False)
class Operator:
    """Somebody at a command line."""

    name: str
    clock: WorldClock
    link: Link
    note: Callable[[str], None]
    bug: CommandBug = field(default_factory=CommandBug)
    refusals: list[str] = field(default_factory=list)

    @property
    def client(self) -> ConsulClient:
        """The client of a command."""
        return client_over(SimTransport(self.link, self.name, self.name))

    def deploy(self, image: str, strategy: Strategy, *, forces_source: bool = False) -> None:
        """Begin a rollout."""
        Process(self.clock.loop).spawn(self._deploy(image, strategy, forces_source))

    async def _deploy(self, image: str, strategy: Strategy, forces_source: bool) -> None:
        request = Request(image=ImageReference(image), forces_source=forces_source)
        reports: list[NodeReport] = []

        def command(snapshot: KeySnapshot, by: CommandAuthor) -> Change:
            return self.bug.deploy(snapshot, reports, request, strategy, by)

        for _ in range(TRIES):
            try:
                listing = await self.client.list(keys.node_reports(APP))
                reports[:] = [NodeReport.model_validate_json(entry.value) for entry in listing.entries]
                if await self._once(f"deploy {image}", command):
                    return
            except PermanentError as exc:
                self._refused(f"deploy {image}", exc)
                return
            except TidegateError:
                await asyncio.sleep(1.0)

    def submit(self, what: str, command: Command) -> None:
        """Give any other command."""
        Process(self.clock.loop).spawn(self._submit(what, command))

    async def _submit(self, what: str, command: Command) -> None:
        for _ in range(TRIES):
            try:
                if await self._once(what, command):
                    return
            except PermanentError as exc:
                self._refused(what, exc)
                return
            except TidegateError:
                await asyncio.sleep(2.0)

    async def _once(self, what: str, command: Command) -> bool:
        client = self.client
        snapshot = await read_keys(client, APP)
        now = UNIX_S + self.clock.now
        change = self.bug.change(command(snapshot, CommandAuthor(self.name, what, now)))
        indexes = Indexes(record=keys.index_of(snapshot.rollout), active=keys.index_of(snapshot.active))
        result = await write_change(client, APP, writes_of(APP, change, indexes, by=self.name, now=now))
        if isinstance(result, TxnDone):
            self.note(f"{self.name}: {what}")
        return isinstance(result, TxnDone)

    def _refused(self, what: str, exc: PermanentError) -> None:
        self.refusals.append(f"{what}: {exc}")
        self.note(f"{self.name}: {what} refused: {exc}")

    def put(self, **values: str) -> None:
        """Write keys by hand: ``active``, ``stage``."""
        names = {"active": keys.active_image(APP), "stage": keys.stage_image(APP)}
        for key, value in values.items():
            self.note(f"{self.name} puts {key} = {value}")
            self.link.consul.put(names[key], value.encode(), self.name)

    def adopt(self) -> None:
        """Accept a state that went back."""
        Process(self.clock.loop).spawn(self._adopt())

    async def _adopt(self) -> None:
        client = self.client
        for _ in range(TRIES):
            try:
                snapshot = await read_keys(client, APP)
                listing = await client.list(keys.node_reports(APP))
                by = CommandAuthor(self.name, "", self.clock.now)
                made = adopt(snapshot, [entry.value.decode() for entry in listing.entries], by)
                indexes = Indexes(record=keys.index_of(snapshot.rollout), active=keys.index_of(snapshot.active))
                writes = writes_of(APP, made, indexes, by=self.name, now=self.clock.now)
                if isinstance(await write_change(client, APP, writes), TxnDone):
                    self.note(f"{self.name}: adopt, generation {made.record.generation}")
                    return
            except PermanentError as exc:
                self._refused("adopt", exc)
                self.put(active="app:a")
            except TidegateError:
                await asyncio.sleep(1.0)

"""Operators at a command line: what submits their commands is the command line's own."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agent.adapters.consul.fleet import FleetReading, read_fleet
from agent.adapters.consul.kv import ConsulClient
from agent.cli.connect import Session
from agent.cli.rollout.adopt import read_texts
from agent.cli.rollout.submit import Basis, submit
from agent.core.model import keys
from agent.core.model.errors import PermanentError, TidegateError
from agent.core.model.keys import KeySnapshot
from agent.core.model.names import AppName, ImageReference
from agent.core.rollout import commands
from agent.core.rollout.adopt import adopt
from agent.core.rollout.change import Change
from agent.core.rollout.commands import CommandAuthor
from agent.core.rollout.decision import Request
from agent.core.rollout.strategy import Strategy
from tests.sim.consul.link import Link
from tests.sim.consul.transport import SimTransport, client_over
from tests.sim.fleet.names import APP
from tests.sim.virtual_time import UNIX_S, Process
from tests.sim.world_clock import WorldClock

TRIES, AGAIN_S = 10, 2.0
Command = Callable[[KeySnapshot, CommandAuthor], Change]
R = TypeVar("R", bound=Basis)
Read = Callable[[ConsulClient, AppName], Awaitable[R]]


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

    def deploy(self, image: str, strategy: Strategy, *, forces_source: bool = False) -> None:
        """Begin a rollout."""
        request = Request(image=ImageReference(image), forces_source=forces_source)

        def command(seen: FleetReading, by: CommandAuthor) -> Change:
            return self.bug.deploy(seen.keys, seen.reports.values(), request, strategy, by)

        self._spawn(self._give(f"deploy {image}", read_fleet, command))

    def submit(self, what: str, command: Command) -> None:
        """Give any other command."""
        self._spawn(self._give(what, read_fleet, lambda seen, by: command(seen.keys, by)))

    def adopt(self) -> None:
        """Accept a state that went back, and mend what stands against it."""
        self._spawn(self._adopt())

    def put(self, **values: str) -> None:
        """Write keys by hand: ``active``, ``stage``."""
        names = {"active": keys.active_image(APP), "stage": keys.stage_image(APP)}
        for key, value in values.items():
            self.note(f"{self.name} puts {key} = {value}")
            self.link.consul.put(names[key], value.encode(), self.name)

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        Process(self.clock.loop).spawn(work)

    async def _adopt(self) -> None:
        while not await self._give("adopt", read_texts, lambda seen, by: adopt(seen.keys, seen.reports, by)):
            self.put(active="app:a")

    async def _give(self, what: str, read: Read[R], command: Callable[[R, CommandAuthor], Change]) -> bool:
        """Submit a command, and again where it fails for a time, as a person does; return False where it is refused."""
        session = Session(APP, client_over(SimTransport(self.link, self.name, self.name)), self.name)
        for _ in range(TRIES):
            by = CommandAuthor(self.name, what, UNIX_S + self.clock.now)
            try:
                await submit(session, read, lambda seen, by=by: self.bug.change(command(seen, by)), by)  # type: ignore[misc]
            except PermanentError as exc:
                self.note(f"{self.name}: {what} refused: {exc}")
                return False
            except TidegateError:
                await asyncio.sleep(AGAIN_S)
            else:
                self.note(f"{self.name}: {what}")
                return True
        return True

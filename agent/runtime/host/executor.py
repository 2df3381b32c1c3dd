"""Carry a plan's actions out, in order; break off at the first that fails, as each prefix is safe."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from agent.core.host.actions import (
    Action,
    CancelPull,
    Prune,
    Pull,
    Run,
    SaveState,
    SetPins,
    SetReadinessGate,
    SetState,
    ShutdownSessions,
    Start,
    Stop,
    Switch,
)
from agent.runtime.host.jobs import Jobs
from agent.runtime.host.ports import ProxyPort

BeforeAction = Callable[[Action | None], Awaitable[None]]
"""Called before each action of a plan, and with None after the last, before the journal is written."""


async def go_on(_: Action | None) -> None:
    """Do nothing between two actions."""


@dataclass(frozen=True, slots=True)
class Executor:
    """Knows how to do each action."""

    proxy: ProxyPort
    jobs: Jobs
    before_action: BeforeAction = go_on
    """Fault tests end the process here."""

    async def apply(self, actions: Sequence[Action]) -> None:
        """
        Do *actions* in order.

        Raises:
            TidegateError: of the first that failed; those after it were not begun.
        """
        for action in actions:
            await self.before_action(action)
            await self._do(action)
        await self.before_action(None)

    async def _do(self, action: Action) -> None:
        match action:
            case SetPins(pins):
                await self.proxy.set_pins(pins)
            case SetState(slot, state):
                await self.proxy.set_state(slot, state)
            case Switch(new, old, old_to, restore):
                await self.proxy.switch(new, old, old_to, restore=restore)
            case ShutdownSessions(slot):
                await self.proxy.shutdown_sessions(slot)
            case SetReadinessGate(gate):
                await self.proxy.set_gate(gate)
            case SaveState():
                await self.proxy.save_state()
            case Pull() | CancelPull() | Run() | Start() | Stop() | Prune():
                self.jobs.begin(action)
            case _:
                assert_never(action)

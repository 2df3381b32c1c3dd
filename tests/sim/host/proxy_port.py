"""How an agent commands the model of HAProxy: each command of the socket, and each file, is a step of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from agent.core.host.observed import Proxy, Worker
from agent.core.model.names import Pin, SlotName
from agent.core.model.states import AdminState, ReadinessGate

if TYPE_CHECKING:
    from tests.sim.host.place import Place

OBSERVE_S = 0.002
"""One look at HAProxy: no two ticks happen at the same moment."""
Step = Callable[[Callable[[], None]], Awaitable[None]]
"""Does one thing that cannot be half done; the agent may die before it."""


class SimProxy:
    """The runtime socket of the HAProxy at *place*; errors as the adapter's."""

    def __init__(self, place: "Place", step: Step) -> None:
        self._place = place
        self._step = step

    async def observe(self) -> Proxy:
        """Return what HAProxy does."""
        await asyncio.sleep(OBSERVE_S)
        self._place.sync()
        return self._place.proxy.observe()

    async def worker(self) -> Worker:
        """Return which worker answers."""
        proxy = self._place.proxy
        proxy.check()
        return Worker(proxy.process.pid, int(proxy.process.started))

    async def set_pins(self, pins: Mapping[SlotName, Pin]) -> None:
        """Write the map's file, then the map."""
        proxy = self._place.proxy
        await self._step(lambda: setattr(proxy, "saved_pins", dict(pins)))
        await self._step(lambda: setattr(proxy.process, "pins", dict(pins)))

    async def set_gate(self, gate: ReadinessGate) -> None:
        """Write the gate's file, then the gate."""
        proxy = self._place.proxy
        await self._step(lambda: setattr(proxy, "saved_gate", gate))
        await self._step(lambda: setattr(proxy.process, "gate", gate))

    async def set_state(self, slot: SlotName, state: AdminState) -> None:
        """Set one server's state."""
        await self._step(lambda: self._set(slot, state))

    async def switch(self, new: SlotName, old: SlotName, old_to: AdminState, *, restore: bool = False) -> None:  # noqa: ARG002 - HAProxy is told the same
        """Make *new* ready and up, then set *old*."""
        await self._step(lambda: self._set(new, AdminState.READY))
        await self._step(self._place.proxy.process.servers[new].health_up)
        await self._step(lambda: self._set(old, old_to))

    async def shutdown_sessions(self, slot: SlotName) -> None:
        """End a slot's open requests."""
        await self._step(lambda: self._place.close_sessions(slot))

    async def save_state(self) -> None:
        """Write the server-state file."""
        await self._step(self._place.proxy.save_states)

    def _set(self, slot: SlotName, state: AdminState) -> None:
        self._place.proxy.process.servers[slot].set(state, self._place.now)

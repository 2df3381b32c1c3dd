"""
An in-memory HAProxy with the interface of :class:`agent.adapters.haproxy.runtime_api.HaproxySocket`.

Held to the real one by tests/adapters/haproxy/test_contract.py: what differs there is a bug here. Checks are
done between two looks: the first look at a server shows it unchecked, the next shows whether it is healthy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.core.host.observed import Proxy, Server, Worker
from agent.core.model.errors import HaproxyRefusedError, HaproxyUnavailableError
from agent.core.model.names import Pin, SlotName
from agent.core.model.states import AdminState, ReadinessGate


@dataclass(slots=True)
class FakeSlot:
    """One server; set the fields that traffic or a container would."""

    admin: AdminState = AdminState.MAINT
    healthy: bool = False
    """What the next check will find."""
    is_up: bool = False
    is_checked: bool = False
    """Whether a check was made since it left maint."""
    check: str = ""
    open_requests: int = 0
    last_request_age_s: float = 0.0

    @property
    def status(self) -> str:
        """HAProxy's status word."""
        if self.admin is AdminState.MAINT:
            return "MAINT"
        if not self.is_up:
            return "DOWN"
        word = "DRAIN" if self.admin is AdminState.DRAIN else "UP"
        return word if self.is_checked else f"{word} 1/2"


@dataclass(slots=True)
class FakeHaproxy:
    """The slots, pins and gate of one app; `away` makes every call fail as an absent socket does."""

    slots: dict[SlotName, FakeSlot] = field(default_factory=lambda: {slot: FakeSlot() for slot in SlotName})
    pins: dict[SlotName, Pin] = field(default_factory=dict)
    gate: ReadinessGate = ReadinessGate.CLOSED
    pins_saved: bool = True
    gate_saved: bool = True
    worker: Worker = field(default_factory=lambda: Worker(pid=100, start_time_s=1_000))
    old_workers: int | None = 0
    away: bool = False
    sessions_closed: list[SlotName] = field(default_factory=list)
    """Slots whose sessions were shut down, in order."""
    saved: dict[SlotName, tuple[AdminState, bool]] | None = None
    """The server-state file."""

    def ensure_maps(self) -> None:
        """Nothing to do: the fake's files exist."""

    async def observe(self) -> Proxy:
        """Look, then let the checks run."""
        self._require_answer()
        seen = Proxy(
            worker=self.worker,
            servers={slot: self._server(slot) for slot in SlotName},
            pins=dict(self.pins),
            pins_saved=self.pins_saved,
            gate=self.gate,
            gate_saved=self.gate_saved,
            old_workers=self.old_workers,
            state_saved=self.saved == self._states(),
        )
        for slot in self.slots.values():
            if slot.admin is not AdminState.MAINT:
                slot.is_checked, slot.is_up = True, slot.healthy
                slot.check = "L7OK" if slot.healthy else "L4CON"
        return seen

    async def set_state(self, slot: SlotName, state: AdminState) -> None:
        """Put one slot into *state*."""
        if state is AdminState.READY:
            await self.serve(slot)
            return
        self._require_answer()
        self._set(slot, state)

    async def serve(self, slot: SlotName) -> None:
        """Give a slot new visitors at once."""
        self._require_answer()
        self._set(slot, AdminState.READY)
        self.slots[slot].is_up = self.slots[slot].is_checked = True

    async def switch(self, new: SlotName, old: SlotName, old_to: AdminState, *, restore: bool = False) -> None:
        """Give all new visitors to *new*, which must be known good."""
        if new is old or old_to is AdminState.READY:
            raise ValueError(f"no switch: {new} to ready, {old} to {old_to}")
        self._require_answer()
        server = self._server(new)
        if not restore and not server.is_known_good:
            raise HaproxyRefusedError(f"switch_failed: slot {new} is {server.status} / {server.check}")
        await self.serve(new)
        self._set(old, old_to)

    async def shutdown_sessions(self, slot: SlotName) -> None:
        """Cut what is open on a slot."""
        self._require_answer()
        self.slots[slot].open_requests = 0
        self.sessions_closed.append(slot)

    async def set_pins(self, pins: Mapping[SlotName, Pin]) -> None:
        """Make both maps hold exactly *pins*."""
        self._require_answer()
        self.pins, self.pins_saved = dict(pins), True

    async def set_gate(self, gate: ReadinessGate) -> None:
        """Set what load balancers are told."""
        self._require_answer()
        self.gate, self.gate_saved = gate, True

    async def save_state(self) -> None:
        """Write the server-state file."""
        self._require_answer()
        self.saved = self._states()

    def restart(self) -> None:
        """Restart or reload: a new worker, whose states come from the server-state file."""
        self.worker = replace(self.worker, pid=self.worker.pid + 1, start_time_s=self.worker.start_time_s + 60)
        for name, slot in self.slots.items():
            admin, is_up = (self.saved or {}).get(name, (AdminState.MAINT, False))
            self.slots[name] = FakeSlot(admin, healthy=slot.healthy, is_up=is_up)

    def _set(self, slot: SlotName, state: AdminState) -> None:
        server = self.slots[slot]
        if server.admin is AdminState.MAINT and state is not AdminState.MAINT:
            # As HAProxy: out of maint it counts as up until a check says otherwise, and shows the last result.
            server.is_up, server.is_checked = True, False
        server.admin = state

    def _server(self, slot: SlotName) -> Server:
        found = self.slots[slot]
        return Server(
            admin=found.admin,
            status=found.status,
            check=found.check,
            check_detail="Layer4 connection problem" if found.check == "L4CON" else "",
            open_requests=found.open_requests,
            queued=0,
            last_request_age_s=found.last_request_age_s,
        )

    def _states(self) -> dict[SlotName, tuple[AdminState, bool]]:
        return {name: (slot.admin, slot.is_up) for name, slot in self.slots.items()}

    def _require_answer(self) -> None:
        if self.away:
            raise HaproxyUnavailableError("HAProxy cannot be asked: the fake is away")

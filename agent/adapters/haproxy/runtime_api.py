"""
Speaks to HAProxy through its runtime socket: looks at it, and changes it one safe step at a time.

Each batch of commands has a connection of its own (a kept one would stay on the old worker across a reload),
and begins with ``show info``, so that the process that answered is known. Replies carry no code: words in reply to
a change are a refusal, and what was changed is read back. It decides nothing: `build_plan` puts
the actions in order, and the executor calls it for each.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.adapters.haproxy.files import ProxyPaths, holds, read_map, read_text, write_map, write_whole
from agent.adapters.haproxy.maps import argument, difference, map_commands
from agent.adapters.haproxy.parse import (
    Info,
    SavedState,
    parse_map,
    parse_server_states,
    parse_stat,
    read_server,
    require_new_address,
)
from agent.adapters.haproxy.socket import ask, change, count_old_workers
from agent.core.host.observed import Proxy, Server, Worker
from agent.core.model.app import App
from agent.core.model.errors import HaproxyRefusedError, HaproxyUnavailableError
from agent.core.model.names import Pin, SlotName
from agent.core.model.states import AdminState, ReadinessGate

_PIN = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The slots as one worker sees them."""

    info: Info
    states: Mapping[SlotName, SavedState]
    servers: Mapping[SlotName, Server]


@dataclass(frozen=True, slots=True)
class _Maps:
    """Entries of the three maps, as they are at runtime."""

    pin_to_slot: tuple[tuple[str, str], ...]
    slot_to_pin: tuple[tuple[str, str], ...]
    gate: tuple[tuple[str, str], ...]


class HaproxySocket:
    """
    The slots, pins and gate of one app in HAProxy.

    Every method raises :class:`HaproxyUnavailableError` when the socket is absent, refuses, gives no whole answer
    within 5 s, or an old worker answers; and :class:`HaproxyRefusedError` with HAProxy's words when it refuses.
    Changes are idempotent and are made one at a time: give all apps of one HAProxy the same *lock*.
    """

    def __init__(self, app: App, paths: ProxyPaths, lock: asyncio.Lock | None = None) -> None:
        self._app = app
        self._paths = paths
        self._lock = lock or asyncio.Lock()
        self._pin_to_slot, self._slot_to_pin, self._gate = paths.maps(app.name)

    def ensure_maps(self) -> None:
        """Create the map files that are missing, empty: HAProxy does not start without them."""
        for path in self._paths.maps(self._app.name):
            if read_text(path) is None:
                write_whole(path, "")

    async def observe(self) -> Proxy:
        """Look at everything; changes nothing and waits for no writer."""
        snapshot, maps = await self._snapshot_with_maps()
        # The master is asked after the worker: a reload in between shows an old worker, never hides one.
        old_workers = await count_old_workers(self._paths.master_socket)
        return await asyncio.to_thread(self._compose, snapshot, maps, old_workers)

    async def version(self) -> str:
        """Return HAProxy's version."""
        info, _ = await ask(self._paths.runtime_socket, [])
        return info.version

    async def worker(self) -> Worker:
        """Return who answers now: another worker means that HAProxy was restarted or reloaded."""
        info, _ = await ask(self._paths.runtime_socket, [])
        return info.worker

    async def set_state(self, slot: SlotName, state: AdminState) -> None:
        """Put one slot into *state* (``ready`` is :meth:`serve`); out of maint it leads to the app's address."""
        if state is AdminState.READY:
            await self.serve(slot)
            return
        async with self._lock:
            if state is AdminState.DRAIN:
                await self._set_server_address(slot)
            await change(self._paths.runtime_socket, [self._state_command(slot, state)])
            await self._confirm({slot: state})

    async def serve(self, slot: SlotName) -> None:
        """
        Give a slot new visitors at once, without waiting for a check.

        Only for a slot that is known good, or that served before HAProxy restarted.
        """
        async with self._lock:
            await change(self._paths.runtime_socket, self._serve_commands(slot))
            await self._confirm({slot: AdminState.READY})

    async def switch(self, new: SlotName, old: SlotName, old_to: AdminState, *, restore: bool = False) -> None:
        """
        Give all new visitors to *new*, then put *old* to drain or maint: one line, so that one always serves.

        Args:
            new: must be exactly ``DRAIN`` and ``L7OK`` just before, unless *restore*.
            old: the slot that served.
            old_to: drain (its visitors stay) or maint (they move at once; open requests end undisturbed).
            restore: *new* was good already: it served before HAProxy restarted.

        Raises:
            HaproxyRefusedError: ``switch_failed: ...``: *new* is not known good, and nothing was sent; or what was
                read back afterwards is not what was asked for.
        """
        if new is old or old_to is AdminState.READY:
            raise ValueError(f"no switch: {new} to ready, {old} to {old_to}")
        async with self._lock:
            before = await self._snapshot()
            server = before.servers[new]
            if not restore and not server.is_known_good:
                raise HaproxyRefusedError(
                    f"switch_failed: slot {new} is {server.status} / {server.check}, not DRAIN / L7OK "
                    f"({server.check_detail or 'no check yet'})",
                )
            # Never the other way round: drain first would leave new visitors without a server for an instant.
            await change(self._paths.runtime_socket, [*self._serve_commands(new), self._state_command(old, old_to)])
            await self._confirm({new: AdminState.READY, old: old_to})

    async def shutdown_sessions(self, slot: SlotName) -> None:
        """Cut what is open on a slot. The only command that cuts anyone."""
        async with self._lock:
            await change(self._paths.runtime_socket, [f"shutdown sessions server {self._app.name}/{slot.value}"])

    async def set_pins(self, pins: Mapping[SlotName, Pin]) -> None:
        """
        Make both maps hold exactly *pins*: files first, then the runtime.

        At each moment, also when interrupted, a pin that is found leads to the slot it belongs to.

        Raises:
            PermanentError, TransientError: the files cannot be written.
        """
        assert all(_PIN.fullmatch(pin) for pin in pins.values()), pins
        forward = {str(pin): slot.value for slot, pin in pins.items()}
        backward = {slot.value: str(pin) for slot, pin in pins.items()}
        assert len(forward) == len(backward), f"one pin for two slots: {pins}"
        async with self._lock:
            await asyncio.to_thread(self._write_pins, forward, backward)
            maps = await self._maps()
            wrong, missing = difference(maps.pin_to_slot, forward)
            # Wrong ways go first, new ones come last; in between the stamps change.
            await change(
                self._paths.runtime_socket,
                [
                    *(f"del map {self._pin_to_slot} {argument(key)}" for key in wrong),
                    *map_commands(self._slot_to_pin, maps.slot_to_pin, backward),
                    *(f"add map {self._pin_to_slot} {argument(key)} {forward[key]}" for key in missing),
                ],
            )
            after = await self._maps()
            if not holds(after.pin_to_slot, forward) or not holds(after.slot_to_pin, backward):
                raise HaproxyUnavailableError("HAProxy's maps changed while they were written; the agent tries again")

    async def set_gate(self, gate: ReadinessGate) -> None:
        """Set what load balancers are told: file first, then the runtime. Raises as :meth:`set_pins`."""
        wanted = {str(self._app.name): gate.value}
        async with self._lock:
            await asyncio.to_thread(write_map, self._gate, wanted)
            maps = await self._maps()
            await change(self._paths.runtime_socket, map_commands(self._gate, maps.gate, wanted))
            if not holds((await self._maps()).gate, wanted):
                raise HaproxyUnavailableError(
                    "HAProxy's readiness gate changed while it was written; the agent tries again"
                )

    async def save_state(self) -> None:
        """
        Write the server-state file, from which a reloaded or restarted HAProxy takes its states.

        Raises:
            PermanentError, TransientError: the file cannot be written.
        """
        async with self._lock:
            _, (states,) = await ask(self._paths.runtime_socket, ["show servers state"])
            await asyncio.to_thread(write_whole, self._paths.state_file, f"{states}\n\n")

    async def _set_server_address(self, slot: SlotName) -> None:
        """
        Make a slot in maint lead to the app's container address and port.

        HAProxy prefers the port of its state file to the configured one, so a changed setting would take no effect.
        """
        wanted = str(self._app.address(slot)), self._app.container_port
        now = (await self._snapshot()).states[slot]
        if now.admin is not AdminState.MAINT or now.target == wanted:
            return
        command = f"set server {self._app.name}/{slot.value} addr {wanted[0]} port {wanted[1]}"
        _, (reply,) = await ask(self._paths.runtime_socket, [command])
        require_new_address(command, reply)
        found = (await self._snapshot()).states[slot].target
        if found != wanted:
            raise HaproxyRefusedError(f"HAProxy sends slot {slot} to {found}, not to {wanted}")

    def _state_command(self, slot: SlotName, state: AdminState) -> str:
        return f"set server {self._app.name}/{slot.value} state {state.value}"

    def _serve_commands(self, slot: SlotName) -> list[str]:
        # From maint a server would start with one strike; `health up` gives it full health.
        return [
            self._state_command(slot, AdminState.READY),
            f"set server {self._app.name}/{slot.value} health up",
        ]

    def _write_pins(self, forward: Mapping[str, str], backward: Mapping[str, str]) -> None:
        right = {key: value for key, value in read_map(self._pin_to_slot) or () if forward.get(key) == value}
        write_map(self._pin_to_slot, right)
        write_map(self._slot_to_pin, backward)
        write_map(self._pin_to_slot, forward)

    def _compose(self, snapshot: _Snapshot, maps: _Maps, old_workers: int | None) -> Proxy:
        forward, backward = dict(maps.pin_to_slot), dict(maps.slot_to_pin)
        slots_of = {slot: backward.get(slot.value, "") for slot in SlotName}
        gate = dict(maps.gate).get(self._app.name, ReadinessGate.CLOSED.value)
        return Proxy(
            worker=snapshot.info.worker,
            servers=snapshot.servers,
            pins={slot: Pin(pin) for slot, pin in slots_of.items() if forward.get(pin) == slot.value},
            pins_saved=holds(read_map(self._pin_to_slot), forward)
            and holds(read_map(self._slot_to_pin), backward)
            and len(forward) == len(maps.pin_to_slot) == len(backward) == len(maps.slot_to_pin),
            # What the configuration does not know counts as closed there too.
            gate=ReadinessGate(gate) if gate in tuple(ReadinessGate) else ReadinessGate.CLOSED,
            gate_saved=holds(read_map(self._gate), dict(maps.gate)),
            old_workers=old_workers,
            state_saved=self._is_state_saved(snapshot.states),
        )

    def _is_state_saved(self, states: Mapping[SlotName, SavedState]) -> bool:
        text = read_text(self._paths.state_file)
        if text is None:
            return False
        try:
            saved = parse_server_states(text)
        except HaproxyRefusedError:
            return False
        found = {slot: saved.get((self._app.name, slot.value)) for slot in states}
        return all((then := found[slot]) is not None and then.durable == now.durable for slot, now in states.items())

    async def _snapshot(self) -> _Snapshot:
        info, replies = await ask(self._paths.runtime_socket, self._snapshot_commands())
        return self._read_look(info, replies)

    async def _snapshot_with_maps(self) -> tuple[_Snapshot, _Maps]:
        commands = [*self._snapshot_commands(), *self._map_questions()]
        info, (states, stat, *maps) = await ask(self._paths.runtime_socket, commands)
        return self._read_look(info, (states, stat)), _Maps(*map(parse_map, maps))

    async def _maps(self) -> _Maps:
        _, replies = await ask(self._paths.runtime_socket, self._map_questions())
        return _Maps(*map(parse_map, replies))

    def _snapshot_commands(self) -> list[str]:
        return [f"show servers state {self._app.name}", f"show stat {self._app.name} 4 -1"]

    def _map_questions(self) -> list[str]:
        return [f"show map {path}" for path in self._paths.maps(self._app.name)]

    def _read_look(self, info: Info, replies: Sequence[str]) -> _Snapshot:
        states = parse_server_states(replies[0])
        rows = parse_stat(replies[1])
        try:
            own = {slot: states[self._app.name, slot.value] for slot in SlotName}
            servers = {slot: read_server(rows[slot.value], own[slot], info.uptime_s) for slot in SlotName}
        except KeyError as exc:
            raise HaproxyRefusedError(
                f"HAProxy has no server {exc.args[0]} in backend {self._app.name}: its configuration is not Tidegate's",
            ) from exc
        return _Snapshot(info, own, servers)

    async def _confirm(self, wanted: Mapping[SlotName, AdminState]) -> None:
        snapshot = await self._snapshot()
        wrong = [
            f"slot {slot} is {snapshot.states[slot].admin}, not {state}"
            for slot, state in wanted.items()
            if snapshot.states[slot].admin is not state
        ]
        if wrong:
            raise HaproxyRefusedError(f"switch_failed: HAProxy took the command, but {', '.join(wrong)}")

"""A model of HAProxy in virtual time: states, checks, maps, files and old workers as measured."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.core.host.observed import Proxy, Server, Worker
from agent.core.model.errors import HaproxyUnavailableError
from agent.core.model.names import ContainerId, Pin, SlotName
from agent.core.model.states import AdminState, ReadinessGate

CHECK_INTERVAL_S = 1.0
FALL = 3
HARD_STOP_AFTER_S = 10.0


@dataclass(slots=True)
class Srv:
    """One server line; `strikes` counts failed checks in a row."""

    admin: AdminState = AdminState.MAINT
    up: bool = False
    proven: bool = False
    """Whether a check was good since it left maint (no "1/2" in its status)."""
    check: str = "INI"
    failed_checks: int = 0
    next_check: float = 0.0
    last_request: float | None = None
    lost: bool = False
    """Its state was lost in a restart and nobody has set it since."""

    @property
    def status(self) -> str:
        if self.admin is AdminState.MAINT:
            return "MAINT"
        if not self.up:
            return "DOWN"
        word = "DRAIN" if self.admin is AdminState.DRAIN else "UP"
        return word if self.proven else f"{word} 1/2"

    @property
    def takes_new(self) -> bool:
        return self.admin is AdminState.READY and self.up

    @property
    def takes_pinned(self) -> bool:
        return self.admin is not AdminState.MAINT and self.up

    def set(self, admin: AdminState, now: float) -> None:
        """Do what `set server .. state` does."""
        if self.admin is AdminState.MAINT and admin is not AdminState.MAINT:
            self.up, self.proven, self.failed_checks = True, False, 0
            self.next_check = now + 0.7 * CHECK_INTERVAL_S
        self.admin, self.lost = admin, False

    def health_up(self) -> None:
        """Do what `set server .. health up` does."""
        self.up, self.proven, self.failed_checks = True, True, 0

    def run_check(self, now: float, *, good: bool) -> None:
        """Fold in one health check: rise 1, fall 3, and one strike while at "1/2"."""
        self.next_check = now + CHECK_INTERVAL_S
        if good:
            self.up, self.proven, self.failed_checks, self.check = True, True, 0, "L7OK"
            return
        self.failed_checks, self.check = self.failed_checks + 1, "L4CON"
        if not self.proven or self.failed_checks >= FALL:
            self.up = False


@dataclass(slots=True, eq=False)
class Request:
    """A request under way."""

    process: "Process"
    slot: SlotName
    container: ContainerId
    ends: float


@dataclass(slots=True, eq=False)
class Process:
    """One HAProxy worker process."""

    pid: int
    started: float
    servers: dict[SlotName, Srv]
    pins: dict[SlotName, Pin]
    gate: ReadinessGate = ReadinessGate.OPEN
    retired_at: float | None = None
    clients: int = 0
    """Keep-alive clients an old worker still has."""


def _fresh() -> dict[SlotName, Srv]:
    return {slot: Srv() for slot in SlotName}


@dataclass(slots=True)
class ProxyModel:
    """The running HAProxy, its old workers and its files."""

    is_good: Callable[[SlotName], bool]
    now: float = 0.0
    down: bool = False
    master_answers: bool = True
    saved_states: dict[SlotName, Srv] | None = None
    saved_pins: dict[SlotName, Pin] = field(default_factory=dict)
    saved_gate: ReadinessGate = ReadinessGate.OPEN
    process: Process = field(default_factory=lambda: Process(1, 0.0, _fresh(), {}))
    old: list[Process] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def advance(self, now: float) -> None:
        """Move to *now*: checks run, requests end, old workers die."""
        self.now = now
        for process in (self.process, *self.old):
            for slot, srv in process.servers.items():
                if srv.admin is not AdminState.MAINT and now >= srv.next_check:
                    self._check(slot, srv, now)
        self.requests = [request for request in self.requests if request.ends > now]
        self.old = [process for process in self.old if self._lives_on(process)]
        self.requests = [r for r in self.requests if r.process is self.process or r.process in self.old]

    def _check(self, slot: SlotName, srv: Srv, now: float) -> None:
        """Make up for the checks since the last look; their results are all as they would be now."""
        good = self.is_good(slot)
        missed = min(FALL, int((now - srv.next_check) / CHECK_INTERVAL_S))
        for _ in range(missed + 1):
            srv.run_check(now, good=good)
        srv.next_check = now + CHECK_INTERVAL_S

    def _lives_on(self, process: Process) -> bool:
        late = process.retired_at is not None and self.now - process.retired_at > HARD_STOP_AFTER_S
        return not late and (process.clients > 0 or any(r.process is process for r in self.requests))

    def reload(self) -> None:
        """Start a new worker from the files; the old one goes on with its clients, its states frozen."""
        before = self.process
        self.process = self._from_files(keep=True)
        before.retired_at = self.now
        if any(request.process is before for request in self.requests) or before.clients:
            self.old.append(before)

    def restart(self, *, keep: bool) -> None:
        """Crash and start again, with the files as saved, or with the state file lost."""
        self.requests.clear()
        self.old.clear()
        self.process = self._from_files(keep=keep)

    def _from_files(self, *, keep: bool) -> Process:
        servers = _fresh()
        if keep and self.saved_states is not None:
            servers = {slot: replace(srv, check="INI", last_request=None) for slot, srv in self.saved_states.items()}
        else:
            for srv in servers.values():
                srv.lost = True
        pid, start = self.process.pid + 1, self.now
        return Process(pid, start, servers, dict(self.saved_pins), self.saved_gate)

    def check(self) -> None:
        """
        Say whether the runtime socket answers.

        Raises:
            HaproxyUnavailableError: it does not.
        """
        if self.down:
            raise HaproxyUnavailableError("HAProxy does not answer")

    def observe(self) -> Proxy:
        """Answer as the runtime socket does; errors as :meth:`check`."""
        self.check()
        process = self.process
        return Proxy(
            worker=Worker(process.pid, int(process.started)),
            servers={slot: self._server(slot) for slot in SlotName},
            pins=dict(process.pins),
            pins_saved=self.saved_pins == process.pins,
            gate=process.gate,
            gate_saved=self.saved_gate is process.gate,
            old_workers=len(self.old) if self.master_answers else None,
            state_saved=self.is_saved,
        )

    @property
    def is_saved(self) -> bool:
        """Whether the state file holds the present admin states."""
        saved = self.saved_states
        return saved is not None and all(saved[slot].admin is self.process.servers[slot].admin for slot in SlotName)

    def _server(self, slot: SlotName) -> Server:
        srv = self.process.servers[slot]
        seen = self.process.started if srv.last_request is None else srv.last_request
        return Server(srv.admin, srv.status, srv.check, "", self.open_on(slot), 0, self.now - seen)

    def open_on(self, slot: SlotName) -> int:
        """Count the requests the present worker has on *slot*."""
        return sum(request.process is self.process and request.slot is slot for request in self.requests)

    def save_states(self) -> None:
        """Write the server-state file."""
        self.saved_states = {slot: replace(srv) for slot, srv in self.process.servers.items()}

    def route(self, process: Process, pin: Pin | None) -> SlotName | None:
        """Choose a slot as the rules of the backend do; None is a 503."""
        for slot, held in process.pins.items():
            if pin is not None and held == pin and process.servers[slot].takes_pinned:
                return slot
        takers = [slot for slot, srv in process.servers.items() if srv.takes_new]
        return takers[(process.pid + int(self.now * 10)) % len(takers)] if takers else None

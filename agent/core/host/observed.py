"""
What one look at the host saw: containers, HAProxy, work under way. Values only; adapters fill them in.

Unknown is its own value (:class:`Unavailable`), never an empty collection: S12, unknown is never
healthy, never empty, never absent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from agent.core.model.names import ContainerId, Digest, ImageReference, Pin, ReleaseId, SlotName
from agent.core.model.states import AdminState, ReadinessGate


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A system that gave no usable answer, and why."""

    reason: str


class ContainerState(StrEnum):
    """Docker's own container states."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Container:
    """A container of ours, as its labels and Docker's state tell."""

    id: ContainerId
    slot: SlotName
    reference: ImageReference
    digest: Digest
    release: ReleaseId
    pin: Pin
    generation: int
    occupancy: int
    """Rises by one with every new occupant of a slot: tells the newer of two, also after a clock step."""
    state: ContainerState
    exit_code: int | None = None
    started_at: str = ""
    """Docker's time of the last start; changes with every start, compared for equality only."""
    error: str = ""
    """Docker's own error of the last start, or 'killed: out of memory'."""
    stop_grace_s: float | None = None
    """Time between its stop signal and SIGKILL, as its spec had it; None: the app's knob."""

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return self.state is ContainerState.RUNNING


@dataclass(frozen=True, slots=True)
class Server:
    """One slot in HAProxy."""

    admin: AdminState
    status: str
    """HAProxy's status word: ``UP``, ``DRAIN``, ``DRAIN 1/2``, ``DOWN``, ``MAINT``, ..."""
    check: str
    """Result of the last health check (``L7OK``, ``L4CON``, ``INI``, ...), '* ' stripped."""
    check_detail: str
    """What HAProxy says of the last check, for an operator to read."""
    open_requests: int
    """scur: requests on the server now, streams and WebSockets included."""
    queued: int
    """qcur."""
    last_request_age_s: float
    """Seconds since the last request; the worker's age where it saw none (``lastsess = -1``)."""

    @property
    def is_known_good(self) -> bool:
        """Whether a drained server is exactly ``DRAIN`` and ``L7OK``: fit to be switched to."""
        return self.status == "DRAIN" and self.check == "L7OK"

    @property
    def is_ready(self) -> bool:
        """Whether new visitors are sent to it, up or not."""
        return self.admin is AdminState.READY

    @property
    def is_serving(self) -> bool:
        """Whether new visitors can reach it: ready, and up in HAProxy's eyes."""
        return self.is_ready and self.status.startswith("UP")


@dataclass(frozen=True, slots=True)
class Worker:
    """Identity of the HAProxy worker that answered: another one means a restart or reload."""

    pid: int
    start_time_s: int


@dataclass(frozen=True, slots=True)
class Proxy:
    """HAProxy as seen through its runtime socket, for one app."""

    worker: Worker
    servers: Mapping[SlotName, Server]
    pins: Mapping[SlotName, Pin]
    """The two runtime maps, where they agree; a slot missing in either is missing here."""
    pins_saved: bool
    """Whether the map files hold exactly the runtime content."""
    gate: ReadinessGate
    gate_saved: bool
    old_workers: int | None
    """Workers of before a reload that still live; None when the master could not be asked."""
    state_saved: bool
    """Whether the server-state file was written after the last change that is visible now."""


@dataclass(frozen=True, slots=True)
class Health:
    """What the agent's own probe knows of one container."""

    container: ContainerId
    healthy_for_s: float | None
    """Seconds it has been healthy without a break; None when the last probe failed or none was made."""
    probed: bool
    """Whether a probe was made yet."""
    detail: str
    """The last failure in words ('GET / answered 500'), empty when healthy."""


class JobKind(StrEnum):
    """Work that takes longer than a look at the host."""

    PULL = "pull"
    RUN = "run"
    START = "start"
    STOP = "stop"
    PRUNE = "prune"


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of such work under way; at most one per slot, pulls beside them."""

    kind: JobKind
    key: str
    """Slot name, the image reference of a pull, or the digest of an image that is removed."""
    for_s: float
    """Seconds since it was begun."""
    progress: str = ""
    """For people: '62 %', 'stalled 40 s'."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended; seen by exactly one tick."""

    kind: JobKind
    key: str
    """As of :class:`Job`."""
    release_key: str = ""
    """Key of the desired release it was done for; for a stop, of the desired release that failed."""
    error: str = ""
    """Empty when it succeeded."""
    transient: bool = False
    """Whether the error may pass by itself."""
    lines: tuple[str, ...] = ()
    """The container's last log lines, where there is one."""
    digest: str = ""
    """Digest of what was pulled."""
    is_new_image: bool = False
    """Whether a pull brought an image that was not on the host before: only such a one is ever removed."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Space where images lie."""

    free_bytes: int
    reserve_bytes: int
    """A pull does not begin below this."""

    @property
    def is_low(self) -> bool:
        """Whether a pull may fill it up."""
        return self.free_bytes < self.reserve_bytes


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at the host."""

    containers: tuple[Container, ...] | Unavailable
    proxy: Proxy | Unavailable
    health: Mapping[ContainerId, Health]
    jobs: tuple[Job, ...]
    images: Mapping[ImageReference, Digest]
    """References resolved to digests by pulls that ended since the last tick."""
    results: tuple[JobResult, ...] = ()
    disk: Disk | None = None
    """None when it cannot be told."""

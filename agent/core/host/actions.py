"""
What an agent can do to its host. An action is data that renders itself: for the log, the dry run and the CLI.

Quick actions change HAProxy and its files and are done in order; the others start a job of which the next
looks see progress and result. Each is safe by itself and when the process dies right after it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.host.desired import DesiredRelease
from agent.core.model.durations import format_duration
from agent.core.model.names import ContainerId, Digest, ImageReference, Pin, SlotName
from agent.core.model.states import AdminState, ReadinessGate


@dataclass(frozen=True, slots=True)
class Pull:
    """Begin to pull an image and resolve its digest (job)."""

    reference: ImageReference

    def __str__(self) -> str:
        return f"pull {self.reference}"


@dataclass(frozen=True, slots=True)
class CancelPull:
    """Give up a pull nobody wants any more."""

    reference: ImageReference

    def __str__(self) -> str:
        return f"cancel the pull of {self.reference}"


@dataclass(frozen=True, slots=True)
class Run:
    """Create and start a container in a free slot (job)."""

    slot: SlotName
    release: DesiredRelease
    digest: Digest
    occupancy: int

    def __str__(self) -> str:
        return f"run {self.release.reference} ({self.digest[:19]}) in slot {self.slot}"


@dataclass(frozen=True, slots=True)
class Start:
    """Start a container that exists and does not run (job)."""

    slot: SlotName
    container: ContainerId
    why: str

    def __str__(self) -> str:
        return f"start container {self.container[:12]} in slot {self.slot}: {self.why}"


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a container with its signal and grace, keep its last log lines, remove it (job)."""

    slot: SlotName
    container: ContainerId
    grace_s: float
    why: str
    failed_key: str | None = None
    """The desired release that failed with it, to which the log lines belong."""

    def __str__(self) -> str:
        return (
            f"stop and remove container {self.container[:12]} in slot {self.slot} "
            f"(grace {format_duration(self.grace_s)}): {self.why}"
        )


@dataclass(frozen=True, slots=True)
class Prune:
    """Remove an image that Tidegate pulled and no recent release needs (job)."""

    reference: ImageReference
    digest: Digest

    def __str__(self) -> str:
        return f"remove the image of an old release: {self.reference} ({self.digest[:19]})"


@dataclass(frozen=True, slots=True)
class SetPins:
    """Make the two maps, files first, hold exactly these pins."""

    pins: Mapping[SlotName, Pin]

    def __str__(self) -> str:
        shown = ", ".join(f"{slot}={pin}" for slot, pin in sorted(self.pins.items()))
        return f"pin visitors: {shown or 'none'}"


@dataclass(frozen=True, slots=True)
class SetState:
    """Set one slot to drain or maint; never used on the last slot that serves."""

    slot: SlotName
    state: AdminState
    why: str

    def __str__(self) -> str:
        return f"set slot {self.slot} to {self.state}: {self.why}"


@dataclass(frozen=True, slots=True)
class Switch:
    """Give all new visitors to one slot: ready first, the other out second, in one line."""

    new: SlotName
    old: SlotName
    old_to: AdminState
    restore: bool = False
    """The slot served before HAProxy restarted: do not wait for checks."""

    def __str__(self) -> str:
        return f"{'restore' if self.restore else 'switch to'} slot {self.new}, slot {self.old} to {self.old_to}"


@dataclass(frozen=True, slots=True)
class ShutdownSessions:
    """Cut what is still open on a slot at the end of its grace: the only step that may cut someone."""

    slot: SlotName
    why: str

    def __str__(self) -> str:
        return f"cut the open requests of slot {self.slot}: {self.why}"


@dataclass(frozen=True, slots=True)
class SetReadinessGate:
    """Tell load balancers whether the host is ready, and whether the holding page may answer."""

    gate: ReadinessGate

    def __str__(self) -> str:
        return f"set the readiness gate to {self.gate}"


@dataclass(frozen=True, slots=True)
class SaveState:
    """Write HAProxy's server-state file, so that a reload or crash keeps the states."""

    def __str__(self) -> str:
        return "save the server states"


QuickAction = SetPins | SetState | Switch | ShutdownSessions | SetReadinessGate | SaveState
JobAction = Pull | CancelPull | Run | Start | Stop | Prune
Action = QuickAction | JobAction

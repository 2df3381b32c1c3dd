"""
What an agent remembers from tick to tick and over its own restarts: the content of the journal.

Times are seconds of the host's monotonic clock, which all processes of one boot share; the journal's
reader rebases them after a reboot. Frozen: a tick returns the next memory, it never changes this one. A field's
alias is its name on disk, which other versions of the agent read.
"""

from typing import Self, TypedDict

from pydantic import ConfigDict, Field

from agent.core.host.observed import Worker
from agent.core.model.documents import StrictDocument
from agent.core.model.names import ContainerId, Digest, ImageReference, SlotName
from agent.core.model.states import AdminState, ReadinessGate


class _Remembered(StrictDocument):
    model_config = ConfigDict(populate_by_name=True)


class SlotMemory(_Remembered):
    """What is remembered of one slot's occupant; a new occupant starts with a blank one."""

    container: ContainerId | None = None
    served: bool = False
    """New visitors have reached it at some time: visitors may hold it."""
    staged: bool = False
    """It passed every check once; it stays staged while HAProxy calls it good."""
    admin: AdminState | None = None
    """State last seen or set while HAProxy's worker was the remembered one."""
    checking_since: float | None = None
    drain_since: float | None = None
    busy_at: float | None = None
    """When something was last seen open on it, in this HAProxy worker or an older one."""
    leave_since: float | None = None
    """When it went to maint to be emptied."""
    leave_reason: str = ""
    failed_key: str | None = None
    """The desired release that failed with this occupant, to which its last log lines belong."""
    sessions_closed: bool = Field(default=False, alias="cut")
    """`shutdown sessions` was sent."""
    restarts: int = 0
    restart_at: float | None = None
    started_at: str = ""
    """Docker's start time of the run that is counted by ``running_since``."""
    running_since: float | None = None


_BLANK = SlotMemory()


class Failure(_Remembered):
    """Why a wanted release could not be staged here."""

    reason: str
    lines: tuple[str, ...] = ()
    """The container's last log lines."""
    attempts: int = 0
    at: float
    """When the last attempt failed."""
    transient: bool = False
    """It may pass by itself; else it is tried again only when asked for anew, or when nothing else serves."""


class PulledImage(_Remembered):
    """An image that a pull of ours brought to this host: only such a one is ever removed."""

    reference: ImageReference
    digest: Digest
    retry_at: float | None = None
    """When to try again to remove it, where Docker refused: another container uses it."""


class KeyMemory(_Remembered):
    """A key as last acted on."""

    value: str
    modify_index: int


class LastApplied(_Remembered):
    """Desired state last acted on: what a lower index or an absence is judged against."""

    active: KeyMemory | None = None
    stage: KeyMemory | None = None
    rollout: KeyMemory | None = None
    """The record's text."""
    confirmed_at_wall: float | None = None
    """Unix time at which Consul last confirmed it."""


class Memory(_Remembered):
    """Everything remembered of one app."""

    slots: dict[SlotName, SlotMemory] = Field(default={})
    worker: Worker | None = None
    gate: ReadinessGate | None = None
    holding: bool = False
    """Consul confirmed in this boot that nothing is recorded yet."""
    leaving: bool = False
    ready_for: int | None = None
    """
    Last rollout in which the host had both releases, or had waited long enough for them; 0: it was ready before one;
    None: not yet in this boot.
    """
    failures: dict[str, Failure] = Field(default={})
    """By key of the desired release."""
    resolved: dict[str, Digest] = Field(default={})
    """Digest of each desired release that was pulled, by its key: a re-pushed tag changes nothing until asked anew."""
    pulled: tuple[PulledImage, ...] = ()
    """Our images, the one wanted last at the end."""
    occupancy: int = Field(default=0, alias="tenancy")
    """Highest number given to an occupant."""
    last_applied: LastApplied = Field(default=LastApplied(), alias="baseline")

    def slot(self, name: SlotName) -> SlotMemory:
        """Return what is remembered of a slot."""
        return self.slots.get(name, _BLANK)

    def with_slot(self, name: SlotName, **changes: object) -> Self:
        """Return a copy with a slot changed."""
        return self.replace(slots={**self.slots, name: self.slot(name).replace(**changes)})


class SlotChanges(TypedDict, total=False):
    """Fields of :class:`SlotMemory` that a rule changes."""

    served: bool
    staged: bool
    admin: AdminState
    checking_since: float | None
    drain_since: float | None
    busy_at: float
    leave_since: float | None
    leave_reason: str
    failed_key: str
    sessions_closed: bool
    restarts: int
    restart_at: float | None


class MemoryChanges(TypedDict, total=False):
    """Fields of :class:`Memory` that a rule changes."""

    worker: Worker
    gate: ReadinessGate
    holding: bool
    ready_for: int
    failures: dict[str, Failure]
    occupancy: int

"""
The report of a host as a document: ``<app>-status/nodes/<node>``.

A report is written when it changes, so nothing in it moves by itself but the age of the last request of a slot
that is being emptied, rounded.
"""

from pydantic import Field

from agent.core.model.documents import TolerantDocument
from agent.core.model.names import SlotName
from agent.core.model.numbers import Count, UnixTime
from agent.core.model.states import AdminState, ReadinessGate, SlotPhase

REPORT_VERSION = 1


class SlotReport(TolerantDocument):
    """One slot."""

    phase: SlotPhase
    reason: str = ""
    image: str = ""
    release: str = ""
    digest: str = ""
    pin: str = ""
    generation: Count = 0
    container: str = ""
    """First 12 digits of the container's id."""
    state: AdminState | None = None
    """HAProxy's admin state; None when HAProxy could not be asked."""
    is_up: bool = False
    """New visitors are sent to it, and HAProxy calls it up."""
    is_staged: bool = False
    """Fit to be switched to: healthy, known good to HAProxy, its pin in the map; no new visitor reaches it."""
    open_requests: Count | None = None
    """Open and queued requests; None when unknown, and on a slot that serves a host that stays."""
    last_request_age_s: Count | None = None
    """Seconds since the last request, to its end where it is watched; rounded down to 5; only for a drained slot."""
    lines: tuple[str, ...] = ()
    """Last log lines of a container that failed."""
    since: UnixTime | None = None
    """When it was first seen so (release, state, up, staged): Unix seconds of the host's own clock."""


class FailureReport(TolerantDocument):
    """Why a wanted release is not there."""

    reason: str
    is_final: bool = True
    """The host does not try again by itself."""
    lines: tuple[str, ...] = ()
    """Last log lines of the container that failed."""


class NodeReport(TolerantDocument):
    """A host's report: ``<app>-status/nodes/<node>``."""

    v: int = REPORT_VERSION
    app: str
    node: str
    instance: str
    """Boot id and start of the agent: a report counts only while this instance lives."""
    agent: str
    """Version of the agent."""
    zone: str = ""
    """Availability zone; empty outside a cloud."""
    machine: str = ""
    """The cloud's name of the instance."""
    generation: Count = 0
    """Of the rollout record acted on; with *seq* it says which."""
    seq: Count = 0
    phase: SlotPhase
    summary: str
    is_ready: bool
    """Whether the host tells load balancers that it is ready."""
    is_leaving: bool = False
    """The host was taken out of traffic on purpose."""
    gate: ReadinessGate | None = None
    old_workers: Count | None = None
    wants: str = ""
    holds: str = ""
    notes: tuple[str, ...] = ()
    error: str = ""
    failures: dict[str, FailureReport] = Field(default={})
    """By the wish that failed: ``<release>#<generation>`` in a rollout."""
    slots: dict[SlotName, SlotReport]

    @property
    def is_quiet(self) -> bool:
        """Nothing is open on any slot, in HAProxy's worker or in an old one; unknown is never quiet."""
        return self.old_workers == 0 and all(slot.open_requests == 0 for slot in self.slots.values())

"""States that hosts show and reports carry: HAProxy's, the balancer gate's, and what a slot is doing."""

from enum import StrEnum


class AdminState(StrEnum):
    """HAProxy's administrative server states."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class ReadinessGate(StrEnum):
    """What a host tells its load balancer, and whether the holding page may answer."""

    OPEN = "open"
    """Ready while a slot serves."""
    HOLDING = "holding"
    """Nothing is recorded yet: ready, and the holding page answers until a slot serves."""
    CLOSED = "closed"
    """Not ready, whatever serves: the host is leaving."""


class SlotPhase(StrEnum):
    """What a slot is doing: derived from what is seen and wanted, never stored."""

    EMPTY = "empty"
    WAITING = "waiting"
    PULLING = "pulling"
    STARTING = "starting"
    CHECKING = "checking"
    STAGED = "staged"
    SERVING = "serving"
    RESTARTING = "restarting"
    DRAINING = "draining"
    LEAVING = "leaving"
    STOPPING = "stopping"
    FAILED = "failed"
    UNKNOWN = "unknown"

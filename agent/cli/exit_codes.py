"""Exit codes of the command line, and errors that choose one. ``docs/cli.md`` lists them."""

from enum import IntEnum

from agent.core.model.errors import PermanentError


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    """Done, or the state that ``--wait`` names is reached."""
    ERROR = 1
    """An error; one line on standard error names it and the remedy."""
    USAGE = 2
    """The command line is invalid."""
    TAKEN_BACK = 3
    """The rollout ended aborted, rolled_back or rollback_failed."""
    BUSY = 4
    """Refused: another rollout is in progress."""
    TIMED_OUT = 5
    """``--timeout`` has passed; the rollout continues."""
    INTERRUPTED = 130
    """Interrupted; the rollout continues."""


class BusyError(PermanentError):
    """Another rollout is in progress."""

    exit_code = Exit.BUSY

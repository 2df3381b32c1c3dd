"""What may be wrong with the in-process Consul."""

from enum import StrEnum


class Fault(StrEnum):
    """What the server does to every request while the fault is on."""

    ERROR = "error"
    """Answers 500."""
    BUSY = "busy"
    """Answers 429."""
    HANG = "hang"
    """Does not answer."""
    DROP = "drop"
    """Does what was asked, then closes the connection in place of an answer."""
    JUNK = "junk"
    """Answers what no Consul would."""
    NO_INDEX = "no index"
    """Leaves the index header out."""
    FILTERED = "filtered"
    """Says that ACLs filtered the results, as Consul from 1.11 on does."""
    FILTERED_HEALTH = "filtered health"
    """Says so of services alone."""
    REDIRECT = "redirect"
    """Sends the client elsewhere."""
    HIDE = "hide"
    """Shows nothing in listings, though single keys can be read."""
    HUGE = "huge"
    """Answers with a body of 9 MiB."""

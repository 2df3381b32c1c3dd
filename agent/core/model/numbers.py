"""Numbers of documents that somebody else wrote: bounded, so that every reader can count and compute with them."""

from typing import Annotated

from pydantic import Field

COUNT_LIMIT = 2**53
"""The first integer that JSON readers need not keep apart from the next one (RFC 8259, section 6)."""
Count = Annotated[int, Field(ge=0, lt=COUNT_LIMIT)]
UnixTime = Annotated[float, Field(ge=0, lt=1e12, allow_inf_nan=False)]
"""Seconds; the limit is in the year 33658."""

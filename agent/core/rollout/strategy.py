"""The knobs of a rollout (design.md, section 5), as ``deploy`` writes them into the record; sizes of its steps."""

import re
from math import ceil
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from agent.core.model.documents import TolerantDocument
from agent.core.model.durations import Duration

_SHARE = re.compile(r"(\d{1,6})(%?)")
SLACK_S = 60.0
"""Added to the waits of others before a free slot counts as never coming."""


def _share(text: str) -> str:
    found = _SHARE.fullmatch(text)
    if found is None or (found[2] and int(found[1]) > 100):
        msg = f"{text!r:.40} is neither a number of hosts nor a percentage: write 2 or 10%"
        raise ValueError(msg)
    return text


def _step(text: str) -> str:
    if text.rstrip("%").strip("0") == "":
        raise ValueError("a step must have at least one host")
    return text


Share = Annotated[str, AfterValidator(_share)]
"""A number of hosts (``2``) or a percentage of them (``10%``)."""
Step = Annotated[Share, AfterValidator(_step)]


class Strategy(TolerantDocument):
    """How a rollout proceeds; durations in seconds inside."""

    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=20)] = ("100%",)
    """Hosts that have switched after each step; the first of several steps is the canary and waits for ``promote``."""
    waits_for_promote: bool = False
    """Whether a fully staged rollout waits for ``promote`` before traffic moves."""
    min_members: Annotated[int, Field(ge=1)] = 1
    """Minimum number of staged hosts."""
    max_failed: Share = "0"
    """Maximum number of failed hosts in a rollout that continues."""
    max_lost: Share = "10%"
    """Maximum number of hosts lost before the commit; a percentage is rounded up."""
    lost_after: Annotated[Duration, Field(gt=0)] = 60.0
    """Time without contact after which a host counts as lost."""
    progress_deadline: Annotated[Duration, Field(gt=0)] = 600.0
    """Maximum time for staging, and for each later phase in which hosts work."""
    promote_timeout: Annotated[Duration, Field(gt=0)] = 3600.0
    """Maximum wait for ``promote``."""
    min_healthy_time: Annotated[Duration, Field(ge=0)] = 10.0
    """A switched host whose new release is down for this time counts as failed."""
    bake_time: Annotated[Duration, Field(ge=0)] = 300.0
    """Minimum time the old release stays warm after the last switch."""
    drain_idle: Annotated[Duration, Field(gt=0)] = 60.0
    """Time without requests to the old release in the whole fleet after which it counts as unused."""
    drain_timeout: Annotated[Duration, Field(gt=0)] = 1800.0
    """Maximum time visitors keep the old release, counted from the last switch."""
    stop_grace_period: Annotated[Duration, Field(ge=0)] = 10.0
    """Time an old container has to stop."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.bake_time > self.drain_timeout:
            raise ValueError("bake_time is longer than drain_timeout: the old release would be removed during the bake")
        shares = [int(step[:-1]) for step in self.steps if step.endswith("%")]
        counts = [int(step) for step in self.steps if not step.endswith("%")]
        if any(numbers != sorted(set(numbers)) for numbers in (shares, counts)):
            raise ValueError(f"steps {', '.join(self.steps)} must increase")
        if "100%" in self.steps[:-1]:
            raise ValueError(f"steps {', '.join(self.steps)}: no step can follow 100%")
        return self

    @property
    def all_steps(self) -> tuple[str, ...]:
        """The steps, the last of which takes in every host."""
        return self.steps if self.steps[-1] == "100%" else (*self.steps, "100%")

    @property
    def has_canary(self) -> bool:
        """Whether a first part of the fleet switches and then waits for ``promote``."""
        return len(self.all_steps) > 1

    @property
    def free_slot_wait_s(self) -> float:
        """Longest wait for a free slot on every host: what another rollout's end may take."""
        return self.drain_timeout + self.stop_grace_period + SLACK_S

    def longest_s(self) -> float:
        """Return a bound of the whole rollout's length, from its knobs alone (L1)."""
        promotions = self.promote_timeout * (self.waits_for_promote + self.has_canary)
        staged = self.free_slot_wait_s + self.progress_deadline
        switched = self.progress_deadline * len(self.all_steps)
        ended = self.drain_timeout + 2 * self.progress_deadline  # retiring or the way back, and as much for takeovers
        return staged + switched + promotions + ended


def hosts_of(share: str, total: int) -> int:
    """Return how many of *total* hosts a share is: percentages rounded up, at most all."""
    number = int(share.rstrip("%"))
    return min(total, ceil(number * total / 100) if share.endswith("%") else number)

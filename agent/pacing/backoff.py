"""The pauses between tries of something that fails: growing, bounded, and spread by chance where many try."""

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """
    Counts the failures in a row, and says how long to pause after each.

    Args:
        first_s: pause after the first failure.
        max_s: longest pause, before the jitter.
        factor: by which each pause is longer than the one before.
        jitter: a pause is drawn from 1 - *jitter* to 1 + *jitter* times its length, so that a thousand hosts that
            failed at once do not come back at once.
        rng: of the jitter; not asked without one.
    """

    first_s: float
    max_s: float
    factor: float = 2.0
    jitter: float = 0.0
    rng: random.Random = field(default_factory=random.SystemRandom)
    _pause_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._pause_s = self.first_s

    def next(self) -> float:
        """Return the seconds to pause after one more failure."""
        pause_s = self._pause_s
        self._pause_s = min(pause_s * self.factor, self.max_s)
        return pause_s * self.rng.uniform(1 - self.jitter, 1 + self.jitter) if self.jitter else pause_s

    def reset(self) -> None:
        """Begin anew: it went well."""
        self._pause_s = self.first_s

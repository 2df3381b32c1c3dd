"""What operators ask for in a simulation: images that behave in many ways, and strategies with short times."""

import random

from agent.core.rollout.strategy import Strategy

GOOD = ("app:b", "app:c", "app:s-slow")
BAD = (
    "app:n-never",
    "app:e-exits",
    "app:o-sickone",
    "app:d-dies",
    "app:r-away",
    "app:u-unknown",
    "app:x-missing",
    "app:q-quiet",
)
STEPS: tuple[tuple[str, ...], ...] = (("100%",), ("100%",), ("1",), ("1", "50%"), ("10%", "50%", "100%"))


def image_of(rng: random.Random) -> str:
    """Choose an image, more often a good one."""
    return rng.choice(GOOD) if rng.random() < 0.72 else rng.choice(BAD)


def strategy_of(rng: random.Random) -> Strategy:
    """Choose the knobs of a rollout."""
    bake = rng.uniform(5, 15)
    return Strategy(
        steps=rng.choice(STEPS),
        waits_for_promote=rng.random() < 0.15,
        max_failed=rng.choice(("0", "0", "0", "0", "20%")),
        max_lost=rng.choice(("10%", "10%", "34%")),
        lost_after=rng.uniform(10, 20),
        progress_deadline=rng.uniform(35, 70),
        promote_timeout=rng.uniform(25, 50),
        min_healthy_time=rng.uniform(1, 4),
        bake_time=bake,
        drain_idle=rng.uniform(10, 20),
        drain_timeout=rng.uniform(40, 80),
        stop_grace_period=2.0,
    )

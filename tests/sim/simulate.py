"""
Simulate rollouts under faults: many seeds, or one of them again with a trace.

``python -m tests.sim.simulate --seeds 300 --jobs 2``, ``python -m tests.sim.simulate --seed 17 --trace``. The last
line of the output is one line of JSON; the exit status is 1 where an invariant was breached.
"""

import argparse
import json
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import structlog

from tests.sim.fleet.scenario import Outcome, Setting, run_seed

SHOWN_EVERY = 500
"""Seeds between two lines that say how far it is."""


def main() -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--hosts", type=int, help="hosts of the fleet; by default 3 to 20, drawn from the seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds; by default 1")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    arguments = parser.parse_args()
    seeds = (
        [arguments.seed] if arguments.seed is not None else range(arguments.first, arguments.first + arguments.seeds)
    )
    began = time.monotonic()
    outcomes = []
    for outcome in _outcomes(seeds, arguments.jobs, hosts=arguments.hosts, traces=arguments.trace):
        outcomes.append(outcome)
        if len(outcomes) % SHOWN_EVERY == 0:
            print(f"{len(outcomes)} of {len(seeds)} seeds after {time.monotonic() - began:.0f} s", file=sys.stderr)
        for name, found in outcome.breaches.items():
            print(
                f"seed {outcome.seed}: {name}: {found[0]}"
                + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""),
                flush=True,
            )
    print(json.dumps(summary_of(outcomes, time.monotonic() - began, arguments.jobs)))
    return 1 if any(outcome.breaches for outcome in outcomes) else 0


def _outcomes(seeds: Iterable[int], jobs: int, **setting: Any) -> Iterator[Outcome]:
    """Run all seeds; each is the same in whichever process it runs."""
    run = partial(_outcome_of, **setting)
    if jobs == 1:
        _hush()
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(jobs, initializer=_hush) as pool:
        yield from pool.map(run, seeds)


def _hush() -> None:
    """Say nothing of what the agents log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _outcome_of(seed: int, **setting: Any) -> Outcome:
    """Run a seed; an error of the simulation itself is a breach like any other, so that the others still run."""
    try:
        return run_seed(seed, Setting(**setting))
    except Exception:  # noqa: BLE001 - whatever it is, it is told
        return Outcome(seed, 0, 0, {"error": [traceback.format_exc()]}, 0, 0, {}, {})


def summary_of(outcomes: list[Outcome], seconds: float, jobs: int = 1) -> dict[str, object]:
    """Add up what the seeds came to."""
    ends: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for outcome in outcomes:
        ends.update(outcome.ends)
        moved.update(outcome.moved)
    rollouts = sum(outcome.rollouts for outcome in outcomes)
    return {
        "rollouts": rollouts,
        "rollouts_per_minute": round(60 * rollouts / max(seconds, 0.001)),
        "jobs": jobs,
        "faults": sum(outcome.faults for outcome in outcomes),
        "violations": sum(len(found) for outcome in outcomes for found in outcome.breaches.values()),
        "seconds": round(seconds, 1),
        "failing_seeds": [outcome.seed for outcome in outcomes if outcome.breaches],
        "ends": dict(sorted(ends.items())),
        "requests": sum(outcome.asked for outcome in outcomes),
        "unanswered": sum(outcome.failed for outcome in outcomes),
        "moved": dict(sorted(moved.items())),
    }


if __name__ == "__main__":
    sys.exit(main())

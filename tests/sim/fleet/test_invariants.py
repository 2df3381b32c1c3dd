"""
The invariants of design.md, section 6, in whole fleets: rollouts under visitors while anything befalls them.

Every check of every invariant looks on while a seed runs; `test_planted_bugs.py` proves that each can fail. A seed that
fails here is replayed by ``python -m tests.sim.simulate --seed N [--hosts H] --trace``.
"""

import os
import subprocess
import sys

import pytest

from agent.core.model.record import Phase
from tests.sim.fleet.scenario import Outcome, Setting, run_seed

CHUNK = 10
SEEDS = 240
"""With these come more than 300 rollouts."""


def breaches(seeds: range, setting: Setting | None = None) -> tuple[list[Outcome], dict[int, dict[str, list[str]]]]:
    """Run *seeds*; return what they came to, and what was breached by seed."""
    outcomes = [run_seed(seed, setting) for seed in seeds]
    return outcomes, {outcome.seed: outcome.breaches for outcome in outcomes if outcome.breaches}


@pytest.mark.fleet
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_invariants_hold_in_rollouts_on_3_to_20_hosts(first: int) -> None:
    """S1 to S14 at every moment, L1 to L5 at the end."""
    _, found = breaches(range(first, first + CHUNK))
    assert found == {}


@pytest.mark.timeout(400)  # 40 s of one core: 25,000 ticks of the shipped reconciler
@pytest.mark.parametrize(
    "seed",
    [pytest.param(1, marks=pytest.mark.fleet), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 6))],
)
def test_the_invariants_hold_on_200_hosts(seed: int) -> None:
    """A step, a barrier and the idleness of many."""
    _, found = breaches(range(seed, seed + 1), Setting(hosts=200, deploys=1, images=("app:b",)))
    assert found == {}


@pytest.mark.fleet
def test_rollouts_come_to_every_kind_of_end() -> None:
    """The simulation reaches what it is about: success, abort and rollback, with visitors of both releases."""
    outcomes, _ = breaches(range(100, 120), Setting(hosts=4))
    ends = {phase for outcome in outcomes for phase in outcome.ends}
    assert {Phase.SUCCESSFUL, Phase.ABORTED, Phase.ROLLED_BACK} <= ends
    assert sum(outcome.faults for outcome in outcomes) > 20
    assert sum(outcome.moved.get("retired", 0) for outcome in outcomes) > 20


@pytest.mark.fleet
def test_a_seed_replays_exactly() -> None:
    """Each event at the same moment, also in another process that orders its sets otherwise."""
    first, second = (traced(5, hash_seed) for hash_seed in ("1", "2"))
    assert first == second
    assert len(first) > 100


def traced(seed: int, hash_seed: str) -> list[str]:
    """Return the trace of a run in a process of its own; its last line has the time it took."""
    command = [sys.executable, "-m", "tests.sim.simulate", "--seed", str(seed), "--trace"]
    run = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, check=True)
    return run.stdout.decode().splitlines()[:-1]


@pytest.mark.full
@pytest.mark.parametrize("first", range(10_000, 11_600, 50))
def test_the_invariants_hold_in_2000_rollouts(first: int) -> None:
    """More of the same."""
    _, found = breaches(range(first, first + 50))
    assert found == {}


@pytest.mark.full
@pytest.mark.timeout(1800)  # as above, five times and more
@pytest.mark.parametrize("seed", range(1, 4))
def test_the_invariants_hold_on_1000_hosts(seed: int) -> None:
    """As far as Tidegate is meant to go."""
    _, found = breaches(range(seed, seed + 1), Setting(hosts=1000, deploys=1, images=("app:b",)))
    assert found == {}

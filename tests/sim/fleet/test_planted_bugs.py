"""For each invariant a planted bug that breaches it in a fleet: proof that the simulation's checks can fail."""

from dataclasses import replace

import pytest

from agent.core.model.record import Phase
from tests.sim.fleet import bugs
from tests.sim.fleet.coordinator import CoordinatorBug
from tests.sim.fleet.operators import CommandBug
from tests.sim.fleet.scenario import Setting, run_seed
from tests.sim.fleet.world import FleetBug
from tests.sim.host.agent import Bug
from tests.sim.host.bugs import (
    drain_before_ready,
    each,
    good_at_once,
    never_stop,
    run_into_a_taken_slot,
    seeing,
    stop_what_drains,
    switch_instead_of_staging,
)

SEEDS = range(8)
GOOD = ("app:b",)


def on_hosts(bug: Bug) -> FleetBug:
    return FleetBug(node=bug)


def coordinating(advance: bugs.Advance) -> FleetBug:
    return FleetBug(coordinator=CoordinatorBug(advance=advance))


ABORT_STAGING = ((Phase.STAGING, "abort"),)
ROLL_BACK = ((Phase.BAKING, "abort"),)
RESTORED = ((Phase.STAGING, "snapshot_and_restore"),)
STALLED = ((Phase.STAGING, "stall_coordinator"), (Phase.BAKING, "stall_coordinator"))

PLANTED: list[tuple[str, FleetBug, Setting]] = [
    ("S1", on_hosts(each(drain_before_ready)), Setting(images=GOOD, faults=())),
    ("S2", on_hosts(each(switch_instead_of_staging)), Setting(images=GOOD, faults=())),
    ("S3", coordinating(bugs.taking_all_for_staged), Setting(images=GOOD, faults=())),
    ("S4", coordinating(bugs.entering(Phase.ABORTING, Phase.SWITCHING)), Setting(images=GOOD, faults=ABORT_STAGING)),
    (
        "S5",
        FleetBug(command=CommandBug(deploy=bugs.deploy_over_all)),
        Setting(images=GOOD, faults=((Phase.STAGING, "other_deploy"),)),
    ),
    ("S6", FleetBug(coordinator=CoordinatorBug(is_fenced=False)), Setting(images=GOOD, faults=STALLED)),
    ("S6", on_hosts(Bug(validate=bugs.follow_anything)), Setting(images=GOOD, faults=RESTORED)),
    ("S7", on_hosts(Bug(plan=run_into_a_taken_slot)), Setting(images=GOOD, faults=())),
    ("S8", on_hosts(Bug(plan=stop_what_drains)), Setting(images=GOOD, faults=())),
    ("S9", on_hosts(Bug(validate=bugs.serving_what_is_staged)), Setting(images=GOOD, faults=())),
    ("S10", coordinating(bugs.entering(Phase.ROLLING_BACK, Phase.SWITCHING)), Setting(images=GOOD, faults=ROLL_BACK)),
    ("S11", coordinating(bugs.ignoring_pauses), Setting(images=GOOD, faults=((Phase.STAGING, "pause"),))),
    ("S12", on_hosts(seeing(good_at_once)), Setting(images=("app:n-never",), faults=())),
    (
        "S13",
        FleetBug(coordinator=CoordinatorBug(writes=bugs.without_history)),
        Setting(images=GOOD, faults=()),
    ),
    (
        "S13",
        FleetBug(coordinator=CoordinatorBug(writes=bugs.with_two_entries)),
        Setting(images=GOOD, faults=()),
    ),
    ("S14", on_hosts(each(bugs.maint_for_good)), Setting(images=GOOD, faults=())),
    ("S14", coordinating(bugs.retiring_at_once), Setting(images=GOOD, faults=())),
    ("L1", coordinating(bugs.never_late), Setting(images=("app:r-away",), faults=())),
    (
        "L2",
        FleetBug(node=Bug(validate=bugs.deaf_victim), coordinator=CoordinatorBug(sees=bugs.without_victim)),
        Setting(images=GOOD, faults=()),
    ),
    (
        "L3",
        coordinating(bugs.counting_anew_for_joiners),
        Setting(images=("app:r-away",), faults=(), is_churning=True),
    ),
    ("L4", FleetBug(coordinator=CoordinatorBug(contends=False)), Setting(images=GOOD, faults=())),
    ("L5", on_hosts(each(never_stop)), Setting(images=GOOD, faults=())),
    (
        "L5",
        FleetBug(coordinator=CoordinatorBug(tidies=False)),
        Setting(images=GOOD, faults=((Phase.STAGING, "lose"),)),
    ),
]


@pytest.mark.fleet
@pytest.mark.parametrize(
    ("invariant", "bug", "setting"),
    PLANTED,
    ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(PLANTED)],
)
def test_a_planted_bug_is_found(invariant: str, bug: FleetBug, setting: Setting) -> None:
    """With the bug one of some seeds breaches the invariant; without it none does."""
    for seed in SEEDS:
        found = run_seed(seed, small(setting, bug, stops_at=invariant)).breaches
        if found.get(invariant):
            break
    else:
        pytest.fail(f"{invariant} held in {len(SEEDS)} seeds")
    assert run_seed(seed, small(setting, FleetBug())).breaches == {}


def small(setting: Setting, bug: FleetBug, stops_at: str = "") -> Setting:
    """Return the setting for a few hosts and one deploy."""
    return replace(setting, hosts=4, deploys=1, is_churning=setting.is_churning or False, bug=bug, stops_at=stops_at)

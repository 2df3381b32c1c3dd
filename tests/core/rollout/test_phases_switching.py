"""The way there, row by row of the table in ``advance``: from the commit to the last host that has switched."""

import pytest

from agent.core.model.names import NodeName
from agent.core.model.record import Phase, node_hash
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet
from agent.core.rollout.phases_forward import threshold_of
from agent.core.rollout.strategy import Strategy
from tests.core.rollout.fixtures import (
    ALL_NODES,
    GENERATION,
    NO_NODE,
    NOW,
    A,
    after,
    changed,
    fleet,
    record,
    waits,
)

NAMES = tuple(sorted((NodeName(f"web-{number}") for number in range(1, 6)), key=lambda node: node_hash(5, node)))
"""Five hosts in the order of this rollout."""


def five(*shapes: str) -> Fleet:
    """Return five hosts, in the order of the rollout."""
    return fleet(*(f"{node} {shape}" for node, shape in zip(NAMES, shapes, strict=True)))


class TestSteps:
    STEPS = Strategy(steps=("1", "50%"))

    def test_a_canary_takes_in_exactly_its_hosts(self) -> None:
        """By the lowest hashes; `active` stays until the others follow."""
        change = changed(after(1, record(Phase.READY, strategy=self.STEPS), five(*["staged"] * 5)))
        assert (change.record.phase, change.record.step, change.what) == (Phase.CANARY, 0, "1 of the hosts may switch")
        assert [node for node in NAMES if change.record.includes(node)] == list(NAMES[:1])
        assert (change.active, change.record.deadline) == (None, NOW + 1 + 600)

    def canary(self, phase: Phase = Phase.CANARY, count: int = 1, **changes: object) -> Decision:
        threshold = node_hash(GENERATION, NAMES[count - 1])
        return record(phase, strategy=self.STEPS, threshold=threshold, **changes)

    def test_the_canary_serves_and_then_waits_for_promote(self) -> None:
        """The others are asked for nothing; after the timeout it goes back."""
        assert f"{NAMES[0]}: has not switched: blue serving" in waits(after(1, self.canary(), five(*["staged"] * 5)))
        seen = five("switched", *["staged"] * 4)
        change = changed(after(1, self.canary(), seen))
        assert (change.record.phase, change.record.why) == (Phase.AWAITING_PROMOTION, "1 of the hosts switched")
        assert change.record.deadline == NOW + 1 + 3600
        waiting = self.canary(Phase.AWAITING_PROMOTION, deadline=NOW + 3600)
        assert waits(after(3599, waiting, seen)) == "the canary serves; waits for `tidegate promote`"
        change = changed(after(3600, waiting, seen))
        assert (change.record.phase, change.record.why) == (Phase.ROLLING_BACK, "not promoted within promote_timeout")

    def test_promoted_the_threshold_rises_step_by_step_to_all(self) -> None:
        """Each step within a deadline of its own; `active` becomes the target once."""
        waiting = self.canary(Phase.AWAITING_PROMOTION, promoted=True)
        second = changed(after(1, waiting, five("switched", *["staged"] * 4)))
        assert (second.record.phase, second.record.step, second.what) == (
            Phase.SWITCHING,
            1,
            "50% of the hosts may switch",
        )
        assert [node for node in NAMES if second.record.includes(node)] == list(NAMES[:3])
        assert second.active is not None
        third = changed(after(9, second.record, five(*["switched"] * 3, *["staged"] * 2)))
        assert (third.record.phase, third.record.step, third.record.threshold) == (Phase.SWITCHING, 2, ALL_NODES)
        assert (third.active, third.record.deadline) == (None, NOW + 9 + 600)
        last = changed(after(9, third.record, five(*["switched"] * 5)))
        assert (last.record.phase, last.record.deadline) == (Phase.BAKING, NOW + 9 + 1800)
        assert last.record.why == "100% of the hosts switched"

    def test_joiners_count_into_a_step_by_their_hash_alone(self) -> None:
        """Below the threshold they switch, above it they do not; neither is waited for."""
        low, high = NAMES[0], NAMES[-1]
        threshold = threshold_of(GENERATION, NAMES[1:3], 2)
        given = record(Phase.CANARY, strategy=self.STEPS, threshold=threshold)
        assert (given.includes(low), given.includes(high)) == (True, False)
        seen = fleet(*(f"{node} switched" for node in NAMES[1:3]), f"{low} pulling joined", f"{high} pulling joined")
        assert changed(after(1, given, seen)).record.phase is Phase.AWAITING_PROMOTION

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_a_threshold_takes_in_exactly_so_many(self, count: int) -> None:
        """Also all of them: a joiner is judged by its hash then, too."""
        threshold = threshold_of(GENERATION, NAMES, count)
        assert [node_hash(GENERATION, node) <= threshold for node in NAMES] == [True] * count + [False] * (5 - count)

    def test_a_threshold_never_falls(self) -> None:
        """Hosts that have switched stay, whatever the members are now."""
        high = f"{int(ALL_NODES, 16) - 1:064x}"
        waiting = self.canary(Phase.AWAITING_PROMOTION, promoted=True).replace(threshold=high)
        assert changed(after(1, waiting, five(*["switched"] * 5))).record.threshold == high


@pytest.mark.parametrize("phase", [Phase.CANARY, Phase.SWITCHING])
class TestSwitching:
    def begun(self, phase: Phase, **changes: object) -> Decision:
        strategy = changes.pop("strategy", Strategy(steps=("50%",)) if phase is Phase.CANARY else Strategy())
        return record(phase, threshold=ALL_NODES, strategy=strategy, **changes)

    @pytest.mark.parametrize(
        ("odd", "said"),
        [
            ("staged", "web-2: has not switched: blue serving, green staged"),
            ("sick ill-just-now", "web-2: has not switched: "),
            ("switched gone", "web-2: not seen for 5s"),
            ("switched restarted", "web-2: its agent has not reported yet"),
        ],
    )
    def test_every_live_host_of_the_step_is_waited_for(self, phase: Phase, odd: str, said: str) -> None:
        """At the deadline all go back."""
        given, seen = self.begun(phase), fleet("web-1 switched", f"web-2 {odd}")
        assert said in waits(after(599, given, seen))
        change = changed(after(600, given, seen))
        assert (change.record.phase, change.record.why[:38]) == (
            Phase.ROLLING_BACK,
            "not switched within progress_deadline:",
        )
        assert change.active is not None
        assert (change.active.image, change.stage) == (A.image, None)

    def test_a_lost_host_is_an_exception_that_is_named(self, phase: Phase) -> None:
        """It must catch up before it serves."""
        change = changed(after(1, self.begun(phase), fleet("web-1 switched", "web-2 staged lost")))
        assert change.record.phase is {Phase.CANARY: Phase.AWAITING_PROMOTION, Phase.SWITCHING: Phase.BAKING}[phase]
        assert change.record.why.endswith("of the hosts switched, without web-2")

    def test_s12_a_fleet_that_is_not_seen_has_not_switched(self, phase: Phase) -> None:
        """All of the step lost: that may be the watcher's eyes."""
        given, seen = self.begun(phase), fleet("web-1 switched lost", "web-2 switched lost")
        assert waits(after(599, given, seen)) == "no host of this step is alive, without web-1; web-2"
        assert changed(after(600, given, seen)).record.phase is Phase.ROLLING_BACK

    def test_an_empty_step_is_done(self, phase: Phase) -> None:
        """All of its hosts have left."""
        assert changed(after(1, self.begun(phase), fleet("web-1 staged leaving"))).record.phase is not phase

    @pytest.mark.parametrize(("shape", "why"), [("failed", "exited with code 1"), ("sick", "serving: HAProxy says")])
    def test_a_host_that_failed_takes_all_back(self, phase: Phase, shape: str, why: str) -> None:
        """By its own word, or because what it switched to is not up; not where its time has not come."""
        seen = fleet("web-1 switched", f"web-2 {shape}")
        change = changed(after(1, self.begun(phase), seen))
        assert (change.record.phase, why in change.record.why) == (Phase.ROLLING_BACK, True)
        early = record(phase, threshold=NO_NODE, strategy=Strategy(steps=("1",)))
        assert changed(after(1, early, seen)).record.phase is not Phase.ROLLING_BACK

    def test_a_failure_within_max_failed_is_passed_over(self, phase: Phase) -> None:
        """But not where nothing of the step has succeeded."""
        steps = ("50%",) if phase is Phase.CANARY else ("100%",)
        given = self.begun(phase, strategy=Strategy(steps=steps, max_failed="1"))
        assert changed(after(1, given, fleet("web-1 switched", "web-2 failed"))).record.phase in {
            Phase.AWAITING_PROMOTION,
            Phase.BAKING,
        }
        assert changed(after(1, given, fleet("web-1 failed", members=("web-1", "web-9")))).record.phase is (
            Phase.ROLLING_BACK
        )

    def test_a_rollback_is_asked_for(self, phase: Phase) -> None:
        """With who and why."""
        for note, why in (("bob: no", "bob: no"), ("", "rolled back")):
            change = changed(after(1, self.begun(phase, aborted=True, note=note), fleet("web-1 switched")))
            assert (change.record.phase, change.record.why) == (Phase.ROLLING_BACK, why)


def test_a_canary_that_fails_while_it_waits_is_taken_back() -> None:
    """Asked for or not, promoted or not."""
    steps = Strategy(steps=("50%",))
    waiting = record(Phase.AWAITING_PROMOTION, strategy=steps, threshold=ALL_NODES, promoted=True)
    assert changed(after(1, waiting, fleet("web-1 switched", "web-2 sick"))).record.phase is Phase.ROLLING_BACK
    asked = record(Phase.AWAITING_PROMOTION, strategy=steps, threshold=ALL_NODES, promoted=True, aborted=True)
    assert changed(after(1, asked, fleet("web-1 switched"))).record.phase is Phase.ROLLING_BACK

"""How a rollout ends, row by row of the table in ``advance``: baking, retiring, and the two ways back."""

import pytest

from agent.core.model.record import Phase
from agent.core.rollout.change import Mirror, mirror_of
from agent.core.rollout.strategy import Strategy
from tests.core.rollout.fixtures import LINES, NOW, A, B, after, changed, fleet, record, waits

BAKING = {"deadline": NOW + 1800}


def mirrors(image: str | None) -> Mirror | None:
    """Return the mirror of a release by its first letter."""
    return None if image is None else mirror_of({"a": A, "b": B}[image])


class TestBaking:
    def test_the_way_back_stays_warm_through_the_bake(self) -> None:
        """Though nobody uses it."""
        said = waits(after(299, record(Phase.BAKING, **BAKING), fleet("web-1 idle")))
        assert said == "baking: the old release stays ready for a rollback for 1s more"
        change = changed(after(300, record(Phase.BAKING, **BAKING), fleet("web-1 idle")))
        assert (change.record.phase, change.record.deadline) == (Phase.RETIRING, NOW + 300 + 600)
        assert change.record.why == "nobody has used the source for 1m"
        assert (change.active, change.stage) == (None, None)

    @pytest.mark.parametrize(
        ("odd", "said"),
        [
            ("switched", "web-2: old release in use: last request 0s ago, idle after 1m"),
            ("streaming", "web-2: old release in use: 3 open request(s)"),
            ("unclear", "web-2: old release in use: unknown: its open requests are not known"),
            ("unknown", "web-2: old release in use: HAProxy's master socket does not say"),
            ("idle old-workers", "web-2: old release in use: 2 old HAProxy worker(s)"),
            ("staged", "web-2: old release in use: serving: its open requests are not known"),
            ("idle silent", "web-2: old release in use: its agent has not reported yet"),
            ("idle gone", "web-2: old release in use: not seen for 5s"),
            ("streaming joined", "web-2: old release in use: 3 open request(s)"),
            ("streaming leaving", "web-2: old release in use: 3 open request(s)"),
        ],
    )
    def test_s12_idleness_is_a_fleet_fact_and_unknown_is_not_idle(self, odd: str, said: str) -> None:
        """One host suffices, also a joiner or one that leaves; at drain_timeout it is over for all."""
        baking, seen = record(Phase.BAKING, **BAKING), fleet("web-1 idle", f"web-2 {odd}")
        assert waits(after(1799, baking, seen)).startswith(said)
        change = changed(after(1800, baking, seen))
        assert (change.record.phase, change.record.why) == (Phase.RETIRING, "drain_timeout is over")

    @pytest.mark.parametrize(
        "odd", ["retired", "idle lost", "streaming leaving gone", "streaming joined lost", "nothing joined"]
    )
    def test_what_visitors_cannot_be_on_does_not_count(self, odd: str) -> None:
        """The source is not there, or the host is not."""
        seen = fleet("web-1 idle", f"web-2 {odd}")
        assert changed(after(300, record(Phase.BAKING, **BAKING), seen)).record.phase is Phase.RETIRING

    def test_s12_a_fleet_that_is_not_seen_is_not_idle(self) -> None:
        """Until drain_timeout."""
        baking, seen = record(Phase.BAKING, **BAKING), fleet("web-1 idle lost")
        assert waits(after(1799, baking, seen)) == "no live host reports who still uses the old release"
        assert changed(after(1800, baking, seen)).record.phase is Phase.RETIRING

    @pytest.mark.parametrize("shape", ["sick", "failed"])
    def test_a_host_that_fails_takes_all_back(self, shape: str) -> None:
        """The source is warm: one command per host."""
        change = changed(after(1, record(Phase.BAKING, **BAKING), fleet("web-1 switched", f"web-2 {shape}")))
        assert (change.record.phase, change.active) == (Phase.ROLLING_BACK, mirrors("a"))
        assert change.lines == (LINES if shape == "failed" else ())

    def test_a_rollback_is_asked_for(self) -> None:
        """Also at the last moment."""
        for note, why in (("bob: no", "bob: no"), ("", "rolled back")):
            given = record(Phase.BAKING, aborted=True, note=note, **BAKING)
            change = changed(after(1800, given, fleet("web-1 idle")))
            assert (change.record.phase, change.record.why) == (Phase.ROLLING_BACK, why)

    def test_a_first_deploy_that_fails_after_the_commit_stays_for_a_person(self) -> None:
        """There is nothing to go back to; `active` is what is there."""
        change = changed(after(1, record(Phase.BAKING, source=None, **BAKING), fleet("web-1 retired", "web-2 failed")))
        assert change.record.phase is Phase.ROLLBACK_FAILED
        assert change.record.why == "web-2: exited with code 1; there is no release to go back to"
        assert (change.active, change.stage, change.lines) == (mirrors("b"), None, LINES)

    def test_a_first_deploy_bakes_though_nothing_can_be_in_use(self) -> None:
        """Without a source."""
        given = record(Phase.BAKING, source=None, **BAKING)
        assert changed(after(300, given, fleet("web-1 retired"))).record.phase is Phase.RETIRING


class TestRetiring:
    @pytest.mark.parametrize(
        ("odd", "said"),
        [
            ("idle", "web-2: slot blue draining: 12 visitors, at most 3m"),
            ("idle joined", "web-2: slot blue draining: 12 visitors, at most 3m"),
            ("retired behind", "web-2: has not read rollout 5 yet (acted on 4)"),
            ("retired gone", "web-2: not seen for 5s; counts as lost after 1m"),
            ("retired silent", "web-2: its agent has not reported yet"),
        ],
    )
    def test_it_ends_when_the_source_is_gone_everywhere(self, odd: str, said: str) -> None:
        """At progress_deadline what is left is listed."""
        retiring, seen = record(Phase.RETIRING), fleet("web-1 retired", f"web-2 {odd}")
        assert waits(after(599, retiring, seen)) == said
        late = changed(after(600, retiring, seen))
        assert late.record.why == f"left behind at progress_deadline: {said}"
        done = changed(after(1, retiring, fleet("web-1 retired", "web-2 idle lost", "web-3 retired joined")))
        assert done.record.why == "done"
        for change in (late, done):
            assert (change.record.phase, change.record.deadline) == (Phase.SUCCESSFUL, None)
            assert (change.active, change.stage) == (mirrors("b"), mirrors("b"))

    def test_a_first_deploy_has_nothing_to_retire(self) -> None:
        """It ends at once."""
        assert changed(after(1, record(Phase.RETIRING, source=None), fleet("web-1 retired"))).record.why == "done"


class TestAborting:
    @pytest.mark.parametrize(
        ("odd", "said"),
        [
            ("back", "web-2: slot green leaving: taken back"),
            ("staged joined", "web-2: slot green staged"),
            ("serves behind", "web-2: has not read rollout 5 yet (acted on 4)"),
            ("serves gone", "web-2: not seen for 5s; counts as lost after 1m"),
        ],
    )
    def test_it_ends_when_the_target_is_gone_everywhere(self, odd: str, said: str) -> None:
        """At the deadline what is left is listed; the mirrors are the source again."""
        aborting, seen = record(Phase.ABORTING), fleet("web-1 serves", f"web-2 {odd}")
        assert waits(after(599, aborting, seen)) == said
        late = changed(after(600, aborting, seen))
        assert late.record.why == f"so it was; left behind: {said}"
        done = changed(after(1, aborting, fleet("web-1 serves", "web-2 serves lost", "web-3 serves joined")))
        assert done.record.why == "so it was"
        for change in (late, done):
            assert change.record.phase is Phase.ABORTED
            assert (change.active, change.stage) == (mirrors("a"), mirrors("a"))

    def test_a_first_deploy_leaves_the_keys_as_they_were(self) -> None:
        """There is no release to write there."""
        change = changed(after(1, record(Phase.ABORTING, source=None), fleet("web-1 nothing")))
        assert (change.record.phase, change.active, change.stage) == (Phase.ABORTED, None, None)

    def test_without_a_target_there_is_nothing_to_wait_for(self) -> None:
        """A record of an older version."""
        given = record(Phase.ABORTING, target=None)
        assert changed(after(1, given, fleet("web-1 back"))).record.phase is Phase.ABORTED


class TestRollingBack:
    @pytest.mark.parametrize(
        ("odd", "said"),
        [
            ("idle", "web-2: does not serve the source again: blue draining, green serving"),
            ("down", "web-2: does not serve the source again: blue serving, green empty"),
            ("half-back", "web-2: visitors may still reach the target: blue serving, green draining"),
            ("half-back joined", "web-2: visitors may still reach the target: blue serving, green draining"),
            ("back gone", "web-2: not seen for 5s; counts as lost after 1m"),
            ("back silent", "web-2: its agent has not reported yet"),
        ],
    )
    def test_it_ends_when_the_source_serves_everywhere(self, odd: str, said: str) -> None:
        """A live host that is not back at the deadline is for a person; its keys stay as they are."""
        given, seen = record(Phase.ROLLING_BACK), fleet("web-1 back", f"web-2 {odd}")
        assert waits(after(599, given, seen)) == said
        late = changed(after(600, given, seen))
        assert (late.record.phase, late.record.why) == (Phase.ROLLBACK_FAILED, f"so it was; not back: {said}")
        assert (late.active, late.stage) == (None, None)
        done = changed(after(1, given, fleet("web-1 back", "web-2 serves", "web-3 idle lost", "web-4 serves joined")))
        assert (done.record.phase, done.record.why) == (Phase.ROLLED_BACK, "so it was")
        assert (done.active, done.stage) == (mirrors("a"), mirrors("a"))

    def test_a_host_that_cannot_go_back_is_for_a_person_once_the_others_are(self) -> None:
        """With its log lines, and not before the others have had their time."""
        given = record(Phase.ROLLING_BACK)
        assert "web-2: does not serve" in waits(after(1, given, fleet("web-1 stuck", "web-2 idle")))
        change = changed(after(1, given, fleet("web-1 stuck", "web-2 back")))
        assert (change.record.phase, change.lines) == (Phase.ROLLBACK_FAILED, LINES)
        assert change.record.why == "so it was; not back: web-1: exited with code 1"
        assert "web-1: does not serve" in waits(after(1, given, fleet("web-1 stuck tries-again")))

    def test_s12_a_fleet_that_is_not_seen_is_not_back(self) -> None:
        """At the deadline it is: lost hosts have to catch up before they serve."""
        given, seen = record(Phase.ROLLING_BACK), fleet("web-1 idle lost")
        assert waits(after(599, given, seen)) == "no host is alive: web-1 lost"
        change = changed(after(600, given, seen))
        assert (change.record.phase, change.record.why) == (
            Phase.ROLLED_BACK,
            "so it was; no host is alive: web-1 lost",
        )
        assert changed(after(1, given, fleet("web-1 idle leaving"))).record.phase is Phase.ROLLED_BACK

    def test_s10_nothing_takes_a_rollback_back(self) -> None:
        """No failure of the target, no flag, no pause."""
        for flags in ({"aborted": True}, {"paused": True}, {"promoted": True}):
            given = record(Phase.ROLLING_BACK, **flags)
            assert changed(after(1, given, fleet("web-1 back", "web-2 failed"))).record.phase is Phase.ROLLED_BACK


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.is_terminal])
def test_what_has_ended_is_left_alone(phase: Phase) -> None:
    """No change, no wait, no next look."""
    step = after(10_000, record(phase, aborted=True), fleet("web-1 sick"))
    assert (step.change, step.waits, step.look_again_at) == (None, (), float("inf"))


def test_many_names_are_cut_in_a_reason() -> None:
    """A record stays small at any size of the fleet."""
    hosts = [f"web-{number} pulling" for number in range(100, 200)]
    change = changed(after(600, record(Phase.STAGING), fleet(*hosts)))
    assert "web-104" in change.record.why
    assert "web-105" not in change.record.why
    assert change.record.why.endswith("and 95 more")


def test_a_wait_says_until_when() -> None:
    """And the next look is not later: every 5 s, and at each deadline."""
    strategy = Strategy(bake_time=7)
    step = after(4, record(Phase.BAKING, strategy=strategy, deadline=NOW + 1800), fleet("web-1 switched"))
    assert [(wait.node, wait.until) for wait in step.waits] == [(None, NOW + 7), ("web-1", NOW + 1800)]
    assert step.look_again_at == NOW + 7
    assert after(1, record(Phase.STAGING), fleet("web-1 pulling")).look_again_at == NOW + 6

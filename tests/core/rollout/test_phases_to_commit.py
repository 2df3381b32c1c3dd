"""The way there, row by row of the table in ``advance``: from the request to the commit."""

import pytest

from agent.core.model.record import Phase
from agent.core.rollout.change import Mirror
from agent.core.rollout.fleet import Resolution
from agent.core.rollout.strategy import Strategy
from tests.core.rollout.fixtures import (
    ALL_NODES,
    LINES,
    NOW,
    A,
    B,
    after,
    changed,
    fleet,
    record,
    waits,
)
from tests.sim.host.docker_model import digest_of


class TestPending:
    def test_staging_begins_with_everything_in_one_transaction(self) -> None:
        """Source, target, members, the mirror of stage, and the guard on what is active."""
        change = changed(after(1, record(Phase.PENDING), fleet("web-2 serves", "web-1 serves")))
        assert (change.record.phase, change.record.seq, change.was) == (Phase.STAGING, 8, Phase.PENDING)
        assert (change.record.source, change.record.target) == (A, B)
        assert (change.members, change.checks_active) == (("web-1", "web-2"), True)
        assert (change.active, change.stage) == (None, Mirror(B.image, change.stage.spec if change.stage else None))
        assert (change.record.since, change.record.deadline) == (NOW + 1, NOW + 1 + 600)

    @pytest.mark.parametrize(
        ("hosts", "said"),
        [
            (["web-1 serves", "web-2 busy"], "web-2: slot green busy: draining: 12 visitors, at most 3m"),
            (["web-1 warm"], "web-1: slot green busy: draining: 12 visitors"),
            (["web-1 serves old-workers"], "web-1: 2 old HAProxy worker(s)"),
            (["web-1 unknown", "web-2 serves"], "web-1: HAProxy's master socket does not say"),
            (["web-1 full", "web-2 serves"], "web-1: no slot is free"),
            (["web-1 serves", "web-2 serves silent"], "web-2: its agent has not reported yet"),
            (["web-1 serves", "web-2 serves restarted"], "web-2: its agent has not reported yet"),
            (["web-1 serves", "web-2 serves gone"], "web-2: not seen for 5s; counts as lost after 1m"),
            (["web-1 serves leaving"], "0 live host(s), min_members is 1"),
            ([], "0 live host(s), min_members is 1"),
            (["web-1 serves", "web-2 serves-c"], "hosts serve different releases (web-1 serves app:a@"),
        ],
    )
    def test_a_free_slot_on_every_live_host_is_waited_for(self, hosts: list[str], said: str) -> None:
        """With host and reason; at the deadline it is given up with the same words."""
        pending, seen = record(Phase.PENDING), fleet(*hosts)
        assert said in waits(after(1, pending, seen))
        change = changed(after(600, pending, seen))
        assert change.record.phase is Phase.ABORTED
        assert change.record.why.startswith("not begun in time: ")
        assert said in change.record.why
        assert (change.active, change.stage, change.members) == (None, None, None)

    @pytest.mark.parametrize(
        "hosts",
        [
            ["web-1 cold"],
            ["web-1 serves", "web-2 serves lost"],
            ["web-1 serves", "web-2 serves gone leaving"],
            ["web-1 serves", "web-2 serves gone unready"],
            ["web-1 serves"],
        ],
    )
    def test_what_does_not_hinder(self, hosts: list[str]) -> None:
        """The target, warm and unused; a host that is gone for long, on purpose, or that took no visitors; nothing."""
        for at in (1, 601):
            assert changed(after(at, record(Phase.PENDING), fleet(*hosts))).record.phase is Phase.STAGING

    @pytest.mark.parametrize(
        ("resolution", "phase", "said"),
        [
            (None, None, "asks the registry for the digest of app:b"),
            (Resolution(error="connection refused"), None, "app:b: connection refused"),
            (Resolution(error="no such tag", is_final=True), Phase.ABORTED, "app:b: no such tag"),
            (Resolution(digest=digest_of("app:a")), Phase.ABORTED, f"{A.image.replace('app:a', 'app:b')} is what"),
        ],
    )
    def test_the_image_is_resolved_once(self, resolution: Resolution | None, phase: Phase | None, said: str) -> None:
        """An answer that will not change ends it; another is waited for. What serves already is not deployed again."""
        step = after(1, record(Phase.PENDING), fleet("web-1 serves", resolution=resolution))
        assert said in (changed(step).record.why if phase else waits(step))
        assert (step.change.record.phase if step.change else None) is phase

    def test_a_name_too_long_to_pin_ends_it(self) -> None:
        """Docker takes no reference over 512 characters, digest included."""
        request = {"image": "a" * 500}
        change = changed(after(1, record(Phase.PENDING, request=request), fleet("web-1 serves")))
        assert (change.record.phase, "at most 512" in change.record.why) == (Phase.ABORTED, True)

    def test_a_record_without_a_request_ends(self) -> None:
        """Nobody knows what it should deploy."""
        change = changed(after(1, record(Phase.PENDING, request=None), fleet("web-1 serves")))
        assert (change.record.phase, change.record.why) == (Phase.ABORTED, "the record holds no request")

    @pytest.mark.parametrize(("note", "why"), [("bob: wrong one", "bob: wrong one"), ("", "aborted before it began")])
    def test_an_abort_ends_it_at_once(self, note: str, why: str) -> None:
        """Nothing was staged yet, so nothing has to go: no mirror changes."""
        change = changed(after(1, record(Phase.PENDING, aborted=True, note=note), fleet("web-1 full")))
        assert (change.record.phase, change.record.why) == (Phase.ABORTED, why)
        assert (change.active, change.stage) == (None, None)

    def test_an_active_key_that_cannot_be_read_is_waited_for(self) -> None:
        """Its guard could not hold, and nobody knows what should serve."""
        problem = "key shop/active/image is empty"
        seen = fleet("web-1 serves", active=None, active_problem=problem)
        assert waits(after(1, record(Phase.PENDING), seen)) == problem
        assert changed(after(600, record(Phase.PENDING), seen)).record.why == f"not begun in time: {problem}"

    def test_a_first_deploy_has_no_source(self) -> None:
        """Nobody serves, nothing is active."""
        change = changed(after(1, record(Phase.PENDING, source=None), fleet("web-1 nothing", active=None)))
        assert (change.record.phase, change.record.source) == (Phase.STAGING, None)


class TestStaging:
    @pytest.mark.parametrize(
        ("odd", "said"),
        [
            ("pulling", "web-2: pulling app:b 62 %"),
            ("checking", "web-2: checking: healthy for 3s of 10s"),
            ("serves", "web-2: blue serving, green empty"),
            ("failed tries-again", "web-2: exited with code 1"),
            ("staged behind", "web-2: has not read rollout 5 yet (acted on 4)"),
            ("other-digest", "web-2: runs digest sha256:000000000000, wanted sha256:"),
            ("staged gone", "web-2: not seen for 5s; counts as lost after 1m"),
            ("staged restarted", "web-2: its agent has not reported yet"),
            ("staged silent", "web-2: its agent has not reported yet"),
        ],
    )
    def test_s3_each_member_must_report_the_same_digest_staged_in_this_generation(self, odd: str, said: str) -> None:
        """Else it is waited for, and at the deadline it ends without anybody having seen it."""
        staging, seen = record(Phase.STAGING), fleet("web-1 staged", f"web-2 {odd}")
        assert said in waits(after(599, staging, seen))
        change = changed(after(600, staging, seen))
        assert change.record.phase is Phase.ABORTING
        assert change.record.why.startswith("not staged within progress_deadline: ")
        assert said in change.record.why

    def test_a_member_of_which_nothing_is_known_is_lost(self) -> None:
        """Neither catalog nor reports have it any more."""
        seen = fleet("web-1 staged", members=("web-1", "web-7"))
        assert changed(after(1, record(Phase.STAGING), seen)).record.phase is Phase.READY
        none = Strategy(max_lost="0")
        change = changed(after(1, record(Phase.STAGING, strategy=none), seen))
        assert (change.record.phase, change.record.why) == (
            Phase.ABORTING,
            "1 of 2 hosts lost (web-7), at most 0",
        )

    def test_ready_when_all_are_staged(self) -> None:
        """The deadline stays that of staging; joiners that came in time are members."""
        change = changed(after(9, record(Phase.STAGING), fleet("web-2 staged", "web-1 staged", "web-3 staged joined")))
        assert (change.record.phase, change.record.why) == (Phase.READY, "3 host(s) staged")
        assert (change.members, change.record.deadline) == (("web-1", "web-2", "web-3"), NOW + 600)

    def test_a_joiner_is_waited_for_until_the_deadline_and_then_left_out(self) -> None:
        """It does not reset the deadline, so joins cannot starve a rollout (L3)."""
        seen = fleet("web-1 staged", "web-2 pulling joined")
        assert "web-2: pulling" in waits(after(599, record(Phase.STAGING), seen))
        change = changed(after(600, record(Phase.STAGING), seen))
        assert (change.record.phase, change.members) == (Phase.READY, ("web-1",))

    @pytest.mark.parametrize("phase", [Phase.STAGING, Phase.READY])
    def test_a_joiner_whose_agent_has_just_gone_is_waited_for(self, phase: Phase) -> None:
        """HAProxy serves on without it, and would not know the target's visitors: not until it is back, or lost."""
        seen = fleet("web-1 staged", "web-2 serves joined gone")
        assert "web-2: not seen for 5s; counts as lost after 1m" in waits(after(1, record(phase), seen))
        for odd in ("lost", "gone leaving", "gone unready"):
            change = changed(after(1, record(phase), fleet("web-1 staged", f"web-2 serves joined {odd}")))
            assert change.members == ("web-1",)

    def test_a_joiner_that_cannot_come_is_left_out_at_once(self) -> None:
        """And is no failure of the rollout: the others have it staged."""
        change = changed(after(1, record(Phase.STAGING), fleet("web-1 staged", "web-2 failed joined")))
        assert (change.record.phase, change.members) == (Phase.READY, ("web-1",))

    def test_who_leaves_is_neither_waited_for_nor_lost(self) -> None:
        """A graceful leave is no failure (L3)."""
        none = Strategy(max_lost="0")
        seen = fleet("web-1 staged", "web-2 pulling leaving", "web-3 pulling leaving lost")
        change = changed(after(1, record(Phase.STAGING, strategy=none), seen))
        assert (change.record.phase, change.members) == (Phase.READY, ("web-1",))

    def test_too_few_staged_hosts_are_no_fleet(self) -> None:
        """`min_members`, though nobody else is waited for."""
        two = Strategy(min_members=2)
        staging, seen = record(Phase.STAGING, strategy=two), fleet("web-1 staged", "web-2 staged leaving")
        assert waits(after(1, staging, seen)) == "1 staged host(s), min_members is 2"
        assert changed(after(600, staging, seen)).record.phase is Phase.ABORTING


@pytest.mark.parametrize("phase", [Phase.STAGING, Phase.READY])
class TestBeforeTheCommit:
    def test_a_failed_host_ends_it_with_its_log_lines(self, phase: Phase) -> None:
        """Nobody has seen anything."""
        change = changed(after(1, record(phase), fleet("web-1 staged", "web-2 failed")))
        assert (change.record.phase, change.record.why) == (Phase.ABORTING, "web-2: exited with code 1")
        assert (change.lines, change.active, change.stage) == (LINES, None, None)

    def test_an_abort_ends_it(self, phase: Phase) -> None:
        """With who and why; whatever is waited for."""
        for note, why in (("bob: no", "bob: no"), ("", "aborted")):
            change = changed(after(1, record(phase, aborted=True, note=note), fleet("web-1 pulling")))
            assert (change.record.phase, change.record.why) == (Phase.ABORTING, why)

    def test_failures_within_max_failed_are_not_waited_for(self, phase: Phase) -> None:
        """And stay counted: a second one ends it. All of them is always too many."""
        one = Strategy(max_failed="1")
        change = changed(after(1, record(phase, strategy=one), fleet("web-1 staged", "web-2 failed")))
        assert change.record.phase is {Phase.STAGING: Phase.READY, Phase.READY: Phase.SWITCHING}[phase]
        assert change.members == (("web-1", "web-2") if phase is Phase.STAGING else ("web-1",))
        two = fleet("web-1 staged", "web-2 failed", "web-3 failed")
        assert changed(after(1, record(phase, strategy=one), two)).record.phase is Phase.ABORTING
        alone = fleet("web-1 failed")
        assert changed(after(1, record(phase, strategy=one), alone)).record.phase is Phase.ABORTING

    def test_lost_hosts_within_max_lost_are_left_behind_and_named(self, phase: Phase) -> None:
        """And stay counted until the commit; more of them end it."""
        hosts = [f"web-{number} staged" for number in range(3, 12)]
        seen = fleet("web-1 staged lost", *hosts)
        change = changed(after(1, record(phase), seen))
        assert change.record.why == "9 host(s) staged, without web-1"
        assert change.members is not None
        assert ("web-1" in change.members) == (phase is Phase.STAGING)
        few = fleet("web-1 staged lost", "web-2 staged lost", "web-3 staged")
        change = changed(after(1, record(phase), few))
        assert (change.record.phase, change.record.why) == (
            Phase.ABORTING,
            "2 of 3 hosts lost (web-1; web-2), at most 1",
        )


class TestReady:
    def test_the_commit_needs_one_more_look_that_is_consistent(self) -> None:
        """The deciding reading comes from a leader that a quorum still follows, after the record was read."""
        step = after(1, record(Phase.READY), fleet("web-1 staged", is_consistent=False))
        assert waits(step) == "reads the fleet once more before the commit"
        assert step.needs_consistent
        change = changed(after(1, record(Phase.READY), fleet("web-1 staged")))
        assert (change.record.phase, change.record.threshold, change.record.step) == (Phase.SWITCHING, ALL_NODES, 0)
        assert (change.members, change.what) == (("web-1",), "every host may switch")
        assert change.active is not None
        assert (change.active.image, change.stage) == (B.image, None)

    def test_s3_what_is_no_longer_staged_is_waited_for_until_the_deadline(self) -> None:
        """A member that was staged before does not count."""
        seen = fleet("web-1 staged", "web-2 checking")
        assert "web-2: checking" in waits(after(599, record(Phase.READY), seen))
        change = changed(after(600, record(Phase.READY), seen))
        assert (change.record.phase, change.record.why[:29]) == (Phase.ABORTING, "no longer staged everywhere: ")

    def test_a_manual_rollout_waits_for_promote(self) -> None:
        """At most promote_timeout; what is not staged then is shown beside it."""
        manual = Strategy(waits_for_promote=True)
        entered = changed(after(1, record(Phase.STAGING, strategy=manual), fleet("web-1 staged"))).record
        assert entered.deadline == NOW + 1 + 3600
        ready = record(Phase.READY, strategy=manual, deadline=NOW + 3600)
        seen = fleet("web-1 staged", "web-2 checking")
        said = waits(after(3599, ready, seen))
        assert "staged everywhere; waits for `tidegate promote`" in said
        assert "web-2: checking" in said
        late = changed(after(3600, ready, seen)).record
        assert (late.phase, late.why) == (Phase.ABORTING, "not promoted within promote_timeout")
        promoted = record(Phase.READY, strategy=manual, promoted=True, deadline=NOW + 3600)
        change = changed(after(3599, promoted, fleet("web-1 staged")))
        assert (change.record.phase, change.record.flags.promoted) == (Phase.SWITCHING, False)

    def test_a_joiner_of_a_manual_rollout_has_the_time_of_staging(self) -> None:
        """It does not hold a promoted commit for as long as a person may take (L3)."""
        promoted = record(Phase.READY, strategy=Strategy(waits_for_promote=True), promoted=True, deadline=NOW + 3600)
        seen = fleet("web-1 staged", "web-2 pulling joined")
        assert "web-2: pulling" in waits(after(599, promoted, seen))
        assert changed(after(600, promoted, seen)).members == ("web-1",)

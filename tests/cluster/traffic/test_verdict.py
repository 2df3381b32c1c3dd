"""The verdict: every way to lose or move somebody is seen, and nothing else is."""

from collections.abc import Sequence

import pytest

from cluster.traffic.record import Failure, Fault, Kind, Outcome, Sample
from cluster.traffic.verdict import Event, EventKind, Rules, Verdict, judge

RULES = Rules(visit_idle_s=4, slack_s=0.2, deed_s=0.2, settle_s=1)
A_FROM_START = Event(EventKind.ACTIVATED, "a", 0)
B_AT_10 = Event(EventKind.ACTIVATED, "b", 10)
B_BACK_AT_15 = Event(EventKind.ROLLED_BACK, "b", 15)
A_CAPPED_AT_20 = Event(EventKind.DEADLINE, "a", 20)

CLEAN = {
    "moved_unasked": 0,
    "moved_back_and_forth": 0,
    "moved_at_deadline": 0,
    "moved_by_rollback": 0,
    "early": 0,
    "stale": 0,
}


def sample(at: float, version: str, *, visitor: int | None = None, kind: Kind = Kind.NEW) -> Sample:
    return Sample(at, at + 0.01, at + 1000, kind, version, visitor)


def visitor(number: int, *answers: tuple[float, str]) -> list[Sample]:
    return [sample(at, version, visitor=number, kind=Kind.VISITOR) for at, version in answers]


def outcome_of(samples: Sequence[Sample], failed: dict[Kind, dict[Fault, int]] | None = None) -> Outcome:
    return Outcome(
        started_at=0,
        sending_s=30,
        duration_s=31,
        wall_offset_s=1000,
        cpu_s=1,
        late_max_s=0,
        requests={kind: sum(one.kind is kind for one in samples) for kind in Kind},
        failed=failed or {},
        failures=(),
        samples=tuple(samples),
    )


def moves(verdict: Verdict) -> dict[str, object]:
    return {name: value for name, value in verdict.to_dict().items() if name in CLEAN}


@pytest.mark.parametrize(
    ("answers", "events", "expected"),
    [
        pytest.param([(9, "a"), (11, "a"), (12, "a")], [B_AT_10], {}, id="stays"),
        pytest.param([(11, "b"), (12, "b")], [B_AT_10], {}, id="newcomer-gets-the-new-one"),
        pytest.param([(9, "a"), (11, "b")], [B_AT_10], {"moved_unasked": 1}, id="moved-by-the-switch"),
        pytest.param(
            [(9, "a"), (11, "b"), (11.5, "a"), (12, "b")],
            [B_AT_10],
            {"moved_back_and_forth": 1},
            id="back-and-forth",
        ),
        pytest.param([(9, "a"), (12, "a"), (16, "b")], [B_AT_10], {}, id="idle-between-two-visits"),
        pytest.param([(9, "a"), (12, "a"), (15.9, "b")], [B_AT_10], {"moved_unasked": 1}, id="idle-too-short"),
        pytest.param(
            [(9, "a"), (13, "a"), (16.5, "a"), (19.9, "a"), (20.4, "b")],
            [B_AT_10, A_CAPPED_AT_20],
            {"moved_at_deadline": 1},
            id="moved-at-the-deadline",
        ),
        pytest.param(
            [(18, "a"), (18.5, "b"), (20, "b")],
            [B_AT_10, A_CAPPED_AT_20],
            {"moved_unasked": 1, "stale": 1},
            id="moved-before-the-deadline",
        ),
        pytest.param(
            [(9, "a"), (12, "a"), (15, "a"), (18, "a"), (21, "a"), (22, "b")],
            [B_AT_10, A_CAPPED_AT_20],
            {"moved_unasked": 1},
            id="moved-long-after-the-deadline",
        ),
        pytest.param(
            [(14, "b"), (14.8, "b"), (15.3, "a")], [B_AT_10, B_BACK_AT_15], {"moved_by_rollback": 1}, id="taken-back"
        ),
        pytest.param(
            [(9, "a"), (12, "a"), (14.8, "a"), (15.3, "b")],
            [B_AT_10, B_BACK_AT_15],
            {"moved_unasked": 1},
            id="rollback-moves-only-holders-of-what-is-taken-back",
        ),
        pytest.param(
            [(9, "a"), (12, "b"), (14.8, "b"), (15.3, "a")],
            [B_AT_10, B_BACK_AT_15],
            {"moved_back_and_forth": 1},
            id="a-reason-does-not-excuse-back-and-forth",
        ),
        pytest.param([(9, "b")], [B_AT_10], {"early": 1, "stale": 1}, id="before-its-activation"),
        pytest.param([(9, "c")], [B_AT_10], {"early": 1, "stale": 1}, id="never-activated"),
        pytest.param([(11.5, "a")], [B_AT_10], {"stale": 1}, id="newcomer-gets-the-old-one"),
        pytest.param([(10.5, "a")], [B_AT_10], {}, id="newcomer-while-the-hosts-switch"),
        pytest.param([(17, "b")], [B_AT_10, B_BACK_AT_15], {"stale": 1}, id="newcomer-gets-what-was-taken-back"),
        pytest.param([(17, "a")], [B_AT_10, B_BACK_AT_15], {}, id="newcomer-after-a-rollback"),
    ],
)
def test_a_visitor_is_classed_by_what_explains_the_move(
    answers: list[tuple[float, str]], events: list[Event], expected: dict[str, int]
) -> None:
    """One visitor's answers and what happened meanwhile give exactly the expected counts."""
    verdict = judge(outcome_of(visitor(1, *answers)), [*events, A_FROM_START], RULES)
    assert moves(verdict) == CLEAN | expected
    assert verdict.is_clean is not (expected.keys() - {"moved_at_deadline", "moved_by_rollback"} != set())


def test_answers_are_ordered_by_when_they_were_asked_for() -> None:
    """Two requests of a visitor may overlap; the one that was asked for first counts as first."""
    late = Sample(9, 10.4, 1000, Kind.VISITOR, "a", 1)
    quick = Sample(9.5, 9.6, 1000, Kind.VISITOR, "a", 1)
    last = Sample(10.2, 10.3, 1000, Kind.VISITOR, "b", 1)
    verdict = judge(outcome_of([quick, last, late]), [A_FROM_START, B_AT_10], RULES)
    assert (verdict.moved_unasked, verdict.moved_back_and_forth) == (1, 0)


def test_visitors_are_counted_apart() -> None:
    """Each cookie jar is judged alone, and newcomers are counted by what they got first."""
    samples = visitor(1, (1, "a"), (11, "b")) + visitor(2, (11, "b")) + visitor(3, (8, "a"), (11, "a"))
    verdict = judge(outcome_of(samples), [A_FROM_START, B_AT_10], RULES)
    assert verdict.visitors == 3
    assert verdict.newcomers == {"a": 2, "b": 1}
    assert moves(verdict) == CLEAN


def test_requests_without_a_cookie_must_get_the_active_release() -> None:
    """Early and stale answers are seen in cookieless traffic too, each once."""
    samples = [sample(5, "a"), sample(9.9, "b"), sample(10.9, "a"), sample(12, "a"), sample(12, "b")]
    verdict = judge(outcome_of(samples), [A_FROM_START, B_AT_10], RULES)
    assert (verdict.early, verdict.stale) == (1, 2)


def test_a_long_answer_is_right_by_what_was_active_when_it_was_asked_for() -> None:
    """A slow request sent before the switch comes back from the old release long after it."""
    slow = Sample(9.9, 12.9, 1000, Kind.SLOW, "a", None)
    assert judge(outcome_of([slow]), [A_FROM_START, B_AT_10], RULES).is_clean


def test_while_a_canary_runs_newcomers_may_get_either_and_afterwards_only_one() -> None:
    """Who has a release keeps it meanwhile; before the canary nobody sees it, and a canary taken back is gone."""
    canary = Event(EventKind.CANARY, "b", 8)
    either = [sample(7.9, "b"), sample(9, "a"), sample(9.5, "b"), sample(12, "a"), sample(12, "b")]
    promoted = judge(outcome_of(either), [A_FROM_START, canary, B_AT_10], RULES)
    assert (promoted.early, promoted.stale) == (1, 2)
    taken_back = judge(outcome_of([*either[1:3], sample(17, "b")]), [A_FROM_START, canary, B_BACK_AT_15], RULES)
    assert (taken_back.early, taken_back.stale) == (0, 1)
    moved = judge(outcome_of(visitor(1, (8.5, "a"), (9, "b"))), [A_FROM_START, canary], RULES)
    assert moved.moved_unasked == 1


def test_failures_spoil_the_verdict() -> None:
    """Failures are summed by fault; streams and WebSockets that ended early are counted as cut as well."""
    failed = {
        Kind.NEW: {Fault.REFUSED: 2},
        Kind.STREAM: {Fault.CUT: 1},
        Kind.WEBSOCKET: {Fault.CUT: 1, Fault.REFUSED: 1},
    }
    verdict = judge(outcome_of([sample(1, "a")], failed), [A_FROM_START], RULES)
    assert verdict.failed == {Fault.REFUSED: 3, Fault.CUT: 2}
    assert verdict.streams_cut == 3
    assert not verdict.is_clean


def test_a_run_survives_the_way_through_json() -> None:
    """What the generator writes is what the test reads."""
    failure = Failure(1.0, 1.5, 1001.5, Kind.SLOW, Fault.TIMEOUT, "/slow", "no answer")
    outcome = outcome_of([sample(1, "a"), *visitor(7, (2, "b"))], {Kind.SLOW: {Fault.TIMEOUT: 1}})
    whole = Outcome(**{name: getattr(outcome, name) for name in Outcome.__slots__} | {"failures": (failure,)})
    assert Outcome.from_json(whole.to_json()) == whole
    assert whole.at_wall(1001.5) == 1.5

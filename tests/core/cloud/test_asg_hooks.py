"""What a cloud instance tells its group, as a table."""

import pytest

from agent.core.cloud.asg_hooks import (
    FAILED_FOR_S,
    Beat,
    End,
    Hook,
    Patience,
    Result,
    Situation,
    Step,
    failure_of,
    next_step,
)
from agent.core.model.names import SlotName
from agent.core.model.report import FailureReport, NodeReport, SlotReport
from agent.core.model.states import SlotPhase

PATIENCE = Patience(launch_s=600, leave_s=240)
FINAL = {"r#1": FailureReport(reason="GET / answered 500")}
PASSING = {"r#1": FailureReport(reason="the registry is away", is_final=False)}


def report(
    phase: SlotPhase = SlotPhase.PULLING,
    *,
    ready: bool = False,
    leaving: bool = False,
    opened: int | None = 0,
    workers: int | None = 0,
    failures: dict[str, FailureReport] | None = None,
) -> NodeReport:
    slots = {
        SlotName.BLUE: SlotReport(phase=phase, open_requests=opened),
        SlotName.GREEN: SlotReport(phase=SlotPhase.EMPTY, open_requests=0),
    }
    return NodeReport(
        app="shop", node="web-1", instance="b.1", agent="0", phase=phase, summary="pulling 62 %", is_ready=ready,
        is_leaving=leaving, old_workers=workers, failures=failures or {}, slots=slots,
    )  # fmt: skip


FAILED = report(SlotPhase.FAILED, failures=FINAL)
READY = report(SlotPhase.SERVING, ready=True)
GONE = report(SlotPhase.SERVING, leaving=True)

TABLE: list[tuple[str, Situation, float, Step]] = [
    ("nothing is asked of it", Situation(READY), 50, None),
    ("no report yet", Situation(None, launching_since=0, beat_at=40), 50, None),
    ("held back and working", Situation(report(), launching_since=0, beat_at=40), 50, None),
    ("held back, a minute later", Situation(report(), launching_since=0, beat_at=40), 100, Beat(Hook.LAUNCH)),
    ("held back and ready", Situation(READY, launching_since=0), 50, End(Hook.LAUNCH, Result.CONTINUE, "pulling 62 %")),
    ("failed a moment ago", Situation(FAILED, launching_since=0, failed_since=49, beat_at=49), 50, None),
    (
        "failed for good",
        Situation(FAILED, launching_since=0, failed_since=50 - FAILED_FOR_S),
        50,
        End(Hook.LAUNCH, Result.ABANDON, "GET / answered 500"),
    ),
    (
        "a failure that may pass",
        Situation(report(SlotPhase.FAILED, failures=PASSING), launching_since=0, failed_since=0, beat_at=49),
        50,
        None,
    ),
    (
        "not ready in time",
        Situation(report(), launching_since=0, beat_at=599),
        600,
        End(Hook.LAUNCH, Result.ABANDON, "not ready after 10m: pulling 62 %"),
    ),
    (
        "an agent that sees nothing",
        Situation(None, launching_since=0, beat_at=599),
        600,
        End(Hook.LAUNCH, Result.ABANDON, "not ready after 10m: the agent has not looked at the host"),
    ),
    ("leaving, and just so", Situation(GONE, leaving_since=0, beat_at=0), 4, None),
    (
        "leaving, nothing open",
        Situation(GONE, leaving_since=0),
        5,
        End(Hook.LEAVE, Result.CONTINUE, "nothing is open any more"),
    ),
    ("leaving, something open", Situation(report(leaving=True, opened=2), leaving_since=0), 5, Beat(Hook.LEAVE)),
    ("unknown is not empty", Situation(report(leaving=True, opened=None), leaving_since=0, beat_at=0), 5, None),
    ("an old worker may hold some", Situation(report(leaving=True, workers=1), leaving_since=0, beat_at=0), 5, None),
    ("HAProxy not asked", Situation(report(leaving=True, workers=None), leaving_since=0, beat_at=0), 5, None),
    ("the report is not out", Situation(READY, leaving_since=0, beat_at=0), 5, None),
    (
        "too long",
        Situation(report(leaving=True, opened=1), leaving_since=0),
        240,
        End(Hook.LEAVE, Result.CONTINUE, "left after 4m; what is open is cut"),
    ),
    (
        "spot takes it before that",
        Situation(report(leaving=True, opened=1), leaving_since=0, leave_by=110),
        110,
        End(Hook.LEAVE, Result.CONTINUE, "left after 1m50s; what is open is cut"),
    ),
    ("leaving wins over launching", Situation(READY, launching_since=0, leaving_since=49, beat_at=49), 50, None),
]  # fmt: skip


@pytest.mark.parametrize(("situation", "at", "step"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_next_step(situation: Situation, at: float, step: Step) -> None:
    assert next_step(situation, at, PATIENCE) == step


def test_only_a_final_failure_of_a_host_that_is_not_ready_counts() -> None:
    assert failure_of(FAILED) == "GET / answered 500"
    assert failure_of(None) == ""
    assert failure_of(report(SlotPhase.FAILED, ready=True, failures=FINAL)) == ""
    assert failure_of(report(SlotPhase.PULLING, failures=FINAL)) == ""
    assert failure_of(report(SlotPhase.FAILED, failures=PASSING)) == ""
    assert failure_of(report(SlotPhase.FAILED)) == ""

"""What a cloud instance tells its group, as a table."""

import pytest

from agent.core.cloud.asg_hooks import (
    FAILED_FOR_S,
    CompleteHook,
    Heartbeat,
    Hook,
    InstanceState,
    Result,
    Step,
    Timeouts,
    failure_of,
    next_step,
)
from agent.core.model.report import FailureReport
from agent.core.model.states import SlotPhase
from tests.core.cloud.reports import FAILED, FINAL, GONE, READY, report

TIMEOUTS = Timeouts(launch_s=600, leave_s=240)
PASSING = {"r#1": FailureReport(reason="the registry is away", is_final=False)}


TABLE: list[tuple[str, InstanceState, float, Step]] = [
    ("nothing is asked of it", InstanceState(READY), 50, None),
    ("no report yet", InstanceState(None, launching_since=0, heartbeat_at=40), 50, None),
    ("held back and working", InstanceState(report(), launching_since=0, heartbeat_at=40), 50, None),
    (
        "held back, a minute later",
        InstanceState(report(), launching_since=0, heartbeat_at=40),
        100,
        Heartbeat(Hook.LAUNCH),
    ),
    (
        "held back and ready",
        InstanceState(READY, launching_since=0),
        50,
        CompleteHook(Hook.LAUNCH, Result.CONTINUE, "pulling 62 %"),
    ),
    ("failed a moment ago", InstanceState(FAILED, launching_since=0, failed_since=49, heartbeat_at=49), 50, None),
    (
        "failed for good",
        InstanceState(FAILED, launching_since=0, failed_since=50 - FAILED_FOR_S),
        50,
        CompleteHook(Hook.LAUNCH, Result.ABANDON, "GET / answered 500"),
    ),
    (
        "a failure that may pass",
        InstanceState(report(SlotPhase.FAILED, failures=PASSING), launching_since=0, failed_since=0, heartbeat_at=49),
        50,
        None,
    ),
    (
        "not ready in time",
        InstanceState(report(), launching_since=0, heartbeat_at=599),
        600,
        CompleteHook(Hook.LAUNCH, Result.ABANDON, "not ready after 10m: pulling 62 %"),
    ),
    (
        "an agent that sees nothing",
        InstanceState(None, launching_since=0, heartbeat_at=599),
        600,
        CompleteHook(Hook.LAUNCH, Result.ABANDON, "not ready after 10m: the agent has not looked at the host"),
    ),
    ("leaving, and just so", InstanceState(GONE, leaving_since=0, heartbeat_at=0), 4, None),
    (
        "leaving, nothing open",
        InstanceState(GONE, leaving_since=0),
        5,
        CompleteHook(Hook.LEAVE, Result.CONTINUE, "nothing is open any more"),
    ),
    (
        "leaving, something open",
        InstanceState(report(leaving=True, opened=2), leaving_since=0),
        5,
        Heartbeat(Hook.LEAVE),
    ),
    (
        "unknown is not empty",
        InstanceState(report(leaving=True, opened=None), leaving_since=0, heartbeat_at=0),
        5,
        None,
    ),
    (
        "an old worker may hold some",
        InstanceState(report(leaving=True, workers=1), leaving_since=0, heartbeat_at=0),
        5,
        None,
    ),
    ("HAProxy not asked", InstanceState(report(leaving=True, workers=None), leaving_since=0, heartbeat_at=0), 5, None),
    ("the report is not out", InstanceState(READY, leaving_since=0, heartbeat_at=0), 5, None),
    (
        "too long",
        InstanceState(report(leaving=True, opened=1), leaving_since=0),
        240,
        CompleteHook(Hook.LEAVE, Result.CONTINUE, "left after 4m; what is open is cut"),
    ),
    (
        "spot takes it before that",
        InstanceState(report(leaving=True, opened=1), leaving_since=0, leave_by=110),
        110,
        CompleteHook(Hook.LEAVE, Result.CONTINUE, "left after 1m50s; what is open is cut"),
    ),
    (
        "leaving wins over launching",
        InstanceState(READY, launching_since=0, leaving_since=49, heartbeat_at=49),
        50,
        None,
    ),
]


@pytest.mark.parametrize(("state", "at", "step"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_next_step(state: InstanceState, at: float, step: Step) -> None:
    assert next_step(state, at, TIMEOUTS) == step


def test_only_a_final_failure_of_a_host_that_is_not_ready_counts() -> None:
    assert failure_of(FAILED) == "GET / answered 500"
    assert failure_of(None) == ""
    assert failure_of(report(SlotPhase.FAILED, ready=True, failures=FINAL)) == ""
    assert failure_of(report(SlotPhase.PULLING, failures=FINAL)) == ""
    assert failure_of(report(SlotPhase.FAILED, failures=PASSING)) == ""
    assert failure_of(report(SlotPhase.FAILED)) == ""

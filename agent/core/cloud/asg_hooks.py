"""
What a cloud instance tells its auto-scaling group: that it serves, that it cannot, that it has left. Pure.

=========================================  ==============================================================
the instance                               what it does
=========================================  ==============================================================
is held back at launch, and ready          launch hook: CONTINUE; the stack: SUCCESS
... its release failed for good            launch hook: ABANDON, with the reason; the stack: FAILURE
... not ready when ``launch_timeout`` ends the same
... otherwise                              a heartbeat each minute
is to be terminated                        leaves traffic at once
... and nothing is open, its report out    leave hook: CONTINUE
... or ``leave_timeout`` is over           the same; what is open is cut
... otherwise                              a heartbeat each minute
=========================================  ==============================================================

Ready is HAProxy's gate: a release serves, or nothing was ever deployed and the holding page stands ready. So an empty
cluster comes up, and only a recorded release that does not serve holds a host back.
"""

from dataclasses import dataclass
from enum import StrEnum

from agent.core.model.durations import format_duration
from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase

HEARTBEAT_S = 60.0
FAILED_FOR_S = 30.0
"""How long a final failure must stand: a failed slot is shown for a moment while another is tried."""
SETTLE_S = 5.0
"""From leaving until it may be over: the report is out, and balancers have seen the gate."""


class Hook(StrEnum):
    """Which of the group's hooks."""

    LAUNCH = "launch"
    LEAVE = "leave"


class Result(StrEnum):
    """How a hook ends."""

    CONTINUE = "CONTINUE"
    ABANDON = "ABANDON"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long things may take, in seconds."""

    launch_s: float
    leave_s: float


@dataclass(frozen=True, slots=True)
class InstanceState:
    """What is known of the instance."""

    report: NodeReport | None
    """The host's own, as last published."""
    launching_since: float | None = None
    """When the group was found to hold the instance back; None: it does not."""
    leaving_since: float | None = None
    """When the end was noticed; None: it stays."""
    leave_by: float | None = None
    """When AWS takes the instance away whatever it does (spot)."""
    failed_since: float | None = None
    heartbeat_at: float = float("-inf")
    """When the last heartbeat was sent."""


@dataclass(frozen=True, slots=True)
class CompleteHook:
    """Complete a hook."""

    hook: Hook
    result: Result
    reason: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Ask for more time."""

    hook: Hook


Step = CompleteHook | Heartbeat | None


def next_step(now: InstanceState, at: float, timeouts: Timeouts) -> Step:
    """Return what to tell the group at monotonic time *at*; see the table above."""
    if now.leaving_since is not None:
        return _leaving(now, at, now.leaving_since, timeouts)
    if now.launching_since is not None:
        return _launching(now, at, now.launching_since, timeouts)
    return None


def failure_of(report: NodeReport | None) -> str:
    """Return why the host cannot serve what it should, if that is final; empty: it may still come."""
    if report is None or report.is_ready or report.phase is not SlotPhase.FAILED:
        return ""
    final = [failure.reason for failure in report.failures.values() if failure.is_final]
    return final[0] if final else ""


def _launching(now: InstanceState, at: float, since: float, timeouts: Timeouts) -> Step:
    if now.report is not None and now.report.is_ready:
        return CompleteHook(Hook.LAUNCH, Result.CONTINUE, now.report.summary)
    failure = failure_of(now.report)
    if failure and now.failed_since is not None and at - now.failed_since >= FAILED_FOR_S:
        return CompleteHook(Hook.LAUNCH, Result.ABANDON, failure)
    if at - since >= timeouts.launch_s:
        summary = now.report.summary if now.report is not None else "the agent has not looked at the host"
        return CompleteHook(
            Hook.LAUNCH, Result.ABANDON, f"not ready after {format_duration(timeouts.launch_s)}: {summary}"
        )
    return Heartbeat(Hook.LAUNCH) if at - now.heartbeat_at >= HEARTBEAT_S else None


def _leaving(now: InstanceState, at: float, since: float, timeouts: Timeouts) -> Step:
    report, gone_s = now.report, at - since
    limit_s = timeouts.leave_s if now.leave_by is None else min(timeouts.leave_s, now.leave_by - since)
    if report is not None and report.is_leaving and gone_s >= SETTLE_S and report.is_quiet:
        return CompleteHook(Hook.LEAVE, Result.CONTINUE, "nothing is open any more")
    if gone_s >= limit_s:
        return CompleteHook(
            Hook.LEAVE, Result.CONTINUE, f"left after {format_duration(max(limit_s, 0))}; what is open is cut"
        )
    return Heartbeat(Hook.LEAVE) if at - now.heartbeat_at >= HEARTBEAT_S else None

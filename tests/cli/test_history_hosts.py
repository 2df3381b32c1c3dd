"""What ``tidegate show`` says of single hosts: when each was staged and switched, and how far apart."""

from datetime import UTC, datetime

from agent.adapters.consul.history import Entry, Rollout
from agent.cli.views.history_hosts import Step, host_times, steps
from agent.core.model.record import Phase

T = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC).timestamp()


def entry(seconds: float, was: Phase | None, phase: Phase, **hosts: float) -> Entry:
    times = {node.replace("_", "-"): T + at for node, at in hosts.items()}
    return Entry.model_validate(
        {"at": datetime.fromtimestamp(T + seconds, UTC), "from": was, "to": phase, "hosts": times}
    )


STAGED = (
    entry(0, None, Phase.PENDING),
    entry(1, Phase.PENDING, Phase.STAGING),
    entry(9, Phase.STAGING, Phase.READY, web_1=4, web_2=8),
)
AT_ONCE = (
    *STAGED,
    entry(10, Phase.READY, Phase.SWITCHING),
    entry(11, Phase.SWITCHING, Phase.BAKING, web_1=10.02, web_2=10.05),
)
IN_STEPS = (
    *STAGED,
    entry(10, Phase.READY, Phase.CANARY),
    entry(11, Phase.CANARY, Phase.AWAITING_PROMOTION, web_1=10.02),
    entry(60, Phase.AWAITING_PROMOTION, Phase.SWITCHING),
    entry(61, Phase.SWITCHING, Phase.BAKING, web_1=10.02, web_2=60.25),
)


def rounded(rollout: Rollout) -> list[tuple[str, float | None, float | None]]:
    def short(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds, 3)

    return [(each.node, short(each.staged_s), short(each.switched_s)) for each in host_times(rollout)]


def test_each_host_has_its_times_the_slowest_first() -> None:
    """Staged after staging began, switched after the commit."""
    assert rounded(Rollout(1, AT_ONCE)) == [("web-2", 7.0, 0.05), ("web-1", 3.0, 0.02)]


def test_the_skew_is_from_the_first_host_that_switched_to_the_last() -> None:
    """And the last one counts from the commit."""
    (step,) = steps(Rollout(1, AT_ONCE))
    assert (step.hosts, round(step.skew_s, 3), round(step.last_s, 3)) == (2, 0.03, 0.05)


def test_each_step_is_measured_from_its_own_beginning() -> None:
    """A canary that has served for a minute does not make the others late."""
    assert rounded(Rollout(1, IN_STEPS)) == [("web-2", 7.0, 0.25), ("web-1", 3.0, 0.02)]
    assert [(step.hosts, round(step.last_s, 3)) for step in steps(Rollout(1, IN_STEPS))] == [(1, 0.02), (1, 0.25)]


def test_a_rollout_without_times_says_nothing_of_hosts() -> None:
    """One of an older version, or one that ended before anything was staged."""
    assert steps(Rollout(1, STAGED[:2])) == ()
    assert host_times(Rollout(1, STAGED[:2])) == ()
    assert steps(Rollout(1, STAGED)) == tuple[Step]()

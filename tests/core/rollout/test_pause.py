"""Stamps and pauses: deadlines are a coordinator's, and a pause shifts them by exactly its length."""

import pytest

from agent.core.model.record import Phase
from agent.core.rollout.decision import Decision
from agent.core.rollout.strategy import Strategy
from tests.core.rollout.fixtures import NOW, after, changed, fleet, record, waits

FORWARD = [phase for phase in Phase if not phase.is_terminal and phase not in {Phase.ABORTING, Phase.ROLLING_BACK}]
DONE = fleet("web-1 idle")
"""What lets most phases go on, or go back."""


def resumed(given: Decision) -> Decision:
    """Return the record as `resume` leaves it."""
    return given.replace(seq=given.seq + 1, flags={"paused": False, "note": "bob: go on"})


def test_a_record_of_a_command_is_stamped_first() -> None:
    """Only a coordinator's clock sets deadlines; a free slot is waited for as long as the last rollout may take."""
    change = changed(after(9, record(Phase.PENDING, since=None, deadline=None), fleet("web-1 serves")))
    assert (change.record.phase, change.what, change.why) == (Phase.PENDING, "taken up", "so it was")
    assert (change.record.since, change.record.deadline) == (NOW + 9, NOW + 9 + 1800 + 10 + 60)
    assert change.record.seq == 8


@pytest.mark.parametrize("phase", FORWARD)
def test_s11_paused_nothing_advances(phase: Phase) -> None:
    """Whatever is due; the pause is noted once, and shown with who asked for it."""
    given = record(phase, paused=True, promoted=True, note="bob: lunch")
    noticed = changed(after(5, given, DONE))
    assert (noticed.record.phase, noticed.what, noticed.why) == (phase, "pause noticed", "bob: lunch")
    assert noticed.record == given.replace(seq=8, paused_at=NOW + 5)
    step = after(100_000, noticed.record, DONE)
    assert waits(step) == "paused: bob: lunch"
    assert step.look_again_at == NOW + 100_000 + 5
    assert waits(after(6, record(phase, paused=True, paused_at=NOW), DONE)) == "paused"


@pytest.mark.parametrize("phase", FORWARD)
def test_resume_shifts_the_deadline_by_exactly_the_pause(phase: Phase) -> None:
    """And the beginning of the phase, from which the bake counts."""
    paused = changed(after(5, record(phase, paused=True), DONE)).record
    change = changed(after(45, resumed(paused), DONE))
    assert (change.what, change.why) == ("deadline shifted by the pause", "paused for 40s")
    assert (change.record.since, change.record.deadline) == (NOW + 40, NOW + 600 + 40)
    assert (change.record.paused_at, change.record.phase) == (None, phase)


def test_a_pause_before_the_record_was_stamped_shifts_nothing_twice() -> None:
    """It is stamped first, so that the pause has a beginning."""
    given = record(Phase.PENDING, since=None, deadline=None, paused=True)
    stamped = changed(after(5, given, DONE)).record
    paused = changed(after(6, stamped, DONE)).record
    shifted = changed(after(106, resumed(paused), DONE)).record
    assert stamped.deadline is not None
    assert (shifted.since, shifted.deadline) == (NOW + 105, stamped.deadline + 100)


def test_a_pause_that_nobody_saw_shifts_nothing() -> None:
    """Paused and resumed between two looks of the coordinator."""
    given = record(Phase.STAGING, note="bob: go on")
    assert changed(after(5, given, fleet("web-1 staged"))).record.deadline == NOW + 600


def test_a_phase_without_a_deadline_has_none_after_a_pause() -> None:
    """Nothing to shift."""
    given = resumed(record(Phase.STAGING, deadline=None, paused_at=NOW))
    assert changed(after(5, given, DONE)).record.deadline is None


@pytest.mark.parametrize("phase", [phase for phase in FORWARD if phase is not Phase.RETIRING])
@pytest.mark.parametrize("paused_at", [None, NOW])
def test_s11_an_abort_or_rollback_passes_a_pause(phase: Phase, paused_at: float | None) -> None:
    """At once, and the pause is over with it."""
    change = changed(after(50, record(phase, paused=True, aborted=True, paused_at=paused_at), DONE))
    back = Phase.ABORTING if phase in {Phase.STAGING, Phase.READY} else Phase.ROLLING_BACK
    assert change.record.phase is (Phase.ABORTED if phase is Phase.PENDING else back)
    assert (change.record.flags.paused, change.record.flags.aborted, change.record.paused_at) == (False, True, None)


def test_a_clock_that_went_back_lengthens_no_pause() -> None:
    """Another coordinator's, a little behind."""
    given = resumed(record(Phase.STAGING, paused_at=NOW + 3))
    change = changed(after(1, given, DONE))
    assert (change.record.deadline, change.why) == (NOW + 600, "paused for 0s")


class TestAnotherCoordinatorsClock:
    def test_one_that_was_ahead_does_not_put_off_deadlines(self) -> None:
        """As much of the phase is left as when it began, by the clock that counts now (L1)."""
        given = record(Phase.STAGING, since=NOW + 3600, deadline=NOW + 3600 + 600)
        change = changed(after(0, given, fleet("web-1 pulling")))
        assert (change.record.since, change.record.deadline) == (NOW, NOW + 600)
        assert change.why == "the clock of the coordinator before was 1h ahead of this one's"
        assert "web-1: pulling" in waits(after(1, change.record, fleet("web-1 pulling")))

    def test_a_pause_keeps_its_beginning_in_the_phase(self) -> None:
        """Shifted with the rest."""
        given = record(Phase.STAGING, since=NOW + 3600, deadline=NOW + 4200, paused=True, paused_at=NOW + 3610)
        shifted = changed(after(0, given, DONE)).record
        assert (shifted.since, shifted.deadline, shifted.paused_at) == (NOW, NOW + 600, NOW + 10)

    def test_a_few_seconds_are_no_reason_to_write(self) -> None:
        """Clocks differ."""
        given = record(Phase.STAGING, since=NOW + 4)
        assert "web-1: pulling" in waits(after(0, given, fleet("web-1 pulling")))

    def test_what_is_done_goes_on_though_its_deadline_is_long_over(self) -> None:
        """Nobody coordinated meanwhile, or the clock is ahead: nothing that is complete is taken back."""
        for phase, hosts, following in (
            (Phase.PENDING, "web-1 serves", Phase.STAGING),
            (Phase.STAGING, "web-1 staged", Phase.READY),
            (Phase.READY, "web-1 staged", Phase.SWITCHING),
            (Phase.SWITCHING, "web-1 switched", Phase.BAKING),
            (Phase.ABORTING, "web-1 serves", Phase.ABORTED),
            (Phase.ROLLING_BACK, "web-1 back", Phase.ROLLED_BACK),
        ):
            assert changed(after(99_999, record(phase, strategy=Strategy()), fleet(hosts))).record.phase is following

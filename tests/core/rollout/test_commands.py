"""What operators ask for: each command's change, and its refusals in the words an operator reads."""

from collections.abc import Callable

import pytest

from agent.core.model.keys import KeySnapshot
from agent.core.model.record import Phase
from agent.core.rollout.change import Change
from agent.core.rollout.commands import (
    CommandAuthor,
    abort,
    current,
    pause,
    previous_of,
    promote,
    resume,
    roll_back,
)
from agent.core.rollout.decision import Decision, read_decision, write_decision
from agent.core.rollout.strategy import Strategy
from tests.core.rollout.fixtures import BOB, NOW, A, keys, record, refused

MANUAL = Strategy(waits_for_promote=True)
RETIRES = (
    "rollout 5 retires the release before: wait for its end (at most 10m), then `tidegate rollback` deploys it anew"
)
Command = Callable[[KeySnapshot, CommandAuthor], Change]
COMMANDS: dict[str, Command] = {
    "promote": promote,
    "abort": abort,
    "rollback": roll_back,
    "pause": pause,
    "resume": resume,
}


@pytest.mark.parametrize("name", COMMANDS)
class TestEveryCommand:
    def test_it_needs_a_rollout_in_progress(self, name: str) -> None:
        """And says what became of the last one."""
        command = COMMANDS[name]
        assert refused(command, keys(), BOB) == f"there is no rollout in progress to {name}"
        ended = keys(record(Phase.ROLLED_BACK))
        said = f"there is no rollout in progress to {name}; the last one, 5, is rolled_back"
        assert refused(command, ended, BOB) == said

    def test_s10_what_goes_back_already_takes_no_other(self, name: str) -> None:
        """Asked for or not: no rollback of a rollback, and nothing hides who asked and why."""
        command = COMMANDS[name]
        for phase in (Phase.PENDING, Phase.READY, Phase.BAKING):
            flagged = keys(record(phase, aborted=True, note="ann: no", strategy=MANUAL))
            said = f"rollout 5 is {phase} and being taken back already (ann: no)"
            assert refused(command, flagged, BOB) == said
        for phase in (Phase.ABORTING, Phase.ROLLING_BACK):
            going = keys(record(phase, paused=True))
            said = f"rollout 5 is {phase} and being taken back already (so it was)"
            assert refused(command, going, BOB) == said


@pytest.mark.parametrize(
    ("name", "given", "flag"),
    [
        ("promote", record(Phase.AWAITING_PROMOTION), "promoted"),
        ("promote", record(Phase.READY, strategy=MANUAL), "promoted"),
        *(("abort", record(phase), "aborted") for phase in (Phase.PENDING, Phase.STAGING, Phase.READY)),
        *(
            ("rollback", record(phase), "aborted")
            for phase in (Phase.CANARY, Phase.AWAITING_PROMOTION, Phase.SWITCHING, Phase.BAKING)
        ),
        ("pause", record(Phase.PENDING), "paused"),
        ("pause", record(Phase.RETIRING), "paused"),
        ("abort", record(Phase.STAGING, paused=True, paused_at=NOW), "aborted"),
    ],
)
def test_a_command_sets_one_flag_and_nothing_else(name: str, given: Decision, flag: str) -> None:
    """With who and why; the coordinator does the rest."""
    change = COMMANDS[name](keys(given), BOB)
    flags = given.flags.model_copy(update={flag: True, "note": "bob: wrong prices"})
    assert change.record == given.replace(seq=8, flags=flags)
    assert (change.what, change.was, change.why) == (name, given.phase, "bob: wrong prices")
    assert (change.active, change.stage, change.members) == (None, None, None)


def test_resume_clears_the_pause_and_leaves_its_beginning() -> None:
    """By which the coordinator shifts the deadline."""
    change = resume(keys(record(Phase.STAGING, paused=True, paused_at=NOW)), CommandAuthor("bob", "", NOW))
    assert (change.record.flags.paused, change.record.flags.note, change.record.paused_at) == (False, "bob", NOW)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("promote", record(Phase.STAGING), "rollout 5 is staging: it does not wait for `promote`"),
        ("promote", record(Phase.READY), "rollout 5 is ready: it does not wait for `promote`"),
        ("promote", record(Phase.BAKING), "rollout 5 is baking: it does not wait for `promote`"),
        ("promote", record(Phase.CANARY), "rollout 5 is canary: it does not wait for `promote`, not yet"),
        (
            "promote",
            record(Phase.STAGING, strategy=MANUAL),
            "rollout 5 is staging: it does not wait for `promote`, not yet",
        ),
        (
            "abort",
            record(Phase.CANARY),
            "rollout 5 is canary: visitors have seen it; `tidegate rollback` takes it back and moves those who did",
        ),
        (
            "abort",
            record(Phase.BAKING, source=None),
            "rollout 5 is baking: visitors have seen it, and as the first deploy it has no release to go back to",
        ),
        (
            "rollback",
            record(Phase.BAKING, source=None),
            "rollout 5 is baking: visitors have seen it, and as the first deploy it has no release to go back to",
        ),
        ("rollback", record(Phase.READY), "rollout 5 is ready: nobody has seen it; use `tidegate abort`"),
        *(
            (
                name,
                record(Phase.RETIRING),
                RETIRES,
            )
            for name in ("abort", "rollback")
        ),
        ("pause", record(Phase.STAGING, paused=True, note="ann: lunch"), "rollout 5 is paused already (ann: lunch)"),
        ("resume", record(Phase.STAGING), "rollout 5 is not paused: it is staging"),
    ],
)
def test_a_refusal_says_what_to_do_instead(name: str, given: Decision, said: str) -> None:
    """Nothing is written then."""
    assert refused(COMMANDS[name], keys(given), BOB) == said


def test_the_release_before_is_what_the_last_successful_rollout_began_with() -> None:
    """Else somebody has to name one."""
    assert previous_of(keys(record(Phase.SUCCESSFUL))) == A
    for given in (None, record(Phase.ROLLED_BACK), record(Phase.BAKING), record(Phase.SUCCESSFUL, source=None)):
        assert "`tidegate history` lists them" in refused(previous_of, keys(given))


def test_a_command_can_be_read_back() -> None:
    """As the coordinator does."""
    change = pause(keys(record(Phase.STAGING)), BOB)
    assert read_decision(write_decision(change.record)) == change.record == current(keys(change.record))
    assert current(keys()) is None

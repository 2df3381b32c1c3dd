"""Which of what Consul says is followed: absence is not a command, and state that goes back is held."""

import json

import pytest

from agent.core.host.desired import Desired, DesiredRelease, HoldingPage, Unchanged
from agent.core.host.memory import KeyMemory, LastApplied
from agent.core.host.validate import BootState, validate
from agent.core.model.keys import ABSENT, Forbidden, Invalid, KeySnapshot, Known, Outcome, Present, Reading, Unknown
from agent.core.model.names import NodeName
from agent.core.model.record import Phase, RolloutRecord
from tests.sim.host.consul_model import ALL_NODES, NO_NODE, recorded

NODE = NodeName("web-1")
RUNNING = BootState(is_running=True, confirmed=True, waited_s=100, now_wall=1000)
BOOTING = BootState(is_running=False, confirmed=False, waited_s=10, now_wall=1000)
WAITED = BootState(is_running=False, confirmed=False, waited_s=60, now_wall=1000)
LATE = BootState(is_running=False, confirmed=False, waited_s=60, now_wall=1.7e9)
A = KeyMemory(value="app:a", modify_index=20)
B = KeyMemory(value="app:b", modify_index=21)
KNOWN = LastApplied(active=A, stage=B, confirmed_at_wall=900)


def record(phase: Phase, generation: int = 5, seq: int = 3, **fields: object) -> str:
    """Return a record from app:a to app:b as text."""
    whole = RolloutRecord(
        generation=generation,
        seq=seq,
        phase=phase,
        source=recorded("app:a", 0),
        target=recorded("app:b", generation),
        threshold=ALL_NODES if phase is Phase.SWITCHING else NO_NODE,
    )
    return json.dumps(whole.model_dump(mode="json") | fields)


def having(text: str, *, active: KeyMemory | None = A) -> LastApplied:
    """Return a baseline with a record seen."""
    return LastApplied(active=active, stage=B, rollout=KeyMemory(value=text, modify_index=30), confirmed_at_wall=900)


def read(active: Reading = ABSENT, stage: Reading = ABSENT, rollout: Reading = ABSENT) -> Known:
    return Known(KeySnapshot(active, stage, rollout=rollout))


def serves(desired: Desired) -> str:
    """Name what is served."""
    match desired.serve:
        case DesiredRelease(reference=reference):
            return reference
        case HoldingPage():
            return "holding page"
        case Unchanged():
            return "as it is"


@pytest.mark.parametrize(
    ("outcome", "last_applied", "serve", "note"),
    [
        pytest.param(read(), LastApplied(), "holding page", "", id="nothing recorded, confirmed"),
        pytest.param(read(active=Present("app:a", 20)), LastApplied(), "app:a", "", id="first value"),
        pytest.param(read(active=Present("app:c", 22)), KNOWN, "app:c", "", id="a newer value"),
        pytest.param(read(active=Present("app:a", 3)), KNOWN, "app:a", "", id="the same value with a lower index"),
        pytest.param(read(), KNOWN, "app:a", "missing", id="missing key"),
        pytest.param(read(active=Invalid("key x is empty")), KNOWN, "app:a", "empty", id="empty key"),
        pytest.param(read(active=Invalid("key x is empty")), LastApplied(), "as it is", "", id="empty key, none ever"),
        pytest.param(read(active=Present("app:c", 19)), KNOWN, "app:a", "went back", id="active went back"),
        pytest.param(
            read(active=Present("app:c", 25), stage=Present("app:d", 4)), KNOWN, "app:a", "went back", id="stage back"
        ),
        pytest.param(Unknown("away"), KNOWN, "app:a", "away", id="away"),
        pytest.param(Forbidden("403"), KNOWN, "app:a", "403", id="forbidden"),
        pytest.param(Unknown("away"), LastApplied(), "as it is", "", id="away, nothing known"),
        pytest.param(Forbidden("403"), LastApplied(), "as it is", "", id="forbidden, nothing known"),
    ],
)
def test_what_is_read_of_the_image_keys(outcome: Outcome, last_applied: LastApplied, serve: str, note: str) -> None:
    """Rows of the table in judgement.py."""
    desired = validate(outcome, last_applied, NODE, RUNNING).desired
    assert serves(desired) == serve
    assert note in "".join(desired.notes)


@pytest.mark.parametrize(
    ("rollout", "seen", "serve", "note"),
    [
        pytest.param(Present(record(Phase.BAKING, seq=4), 31), record(Phase.SWITCHING), "app:b", "", id="goes on"),
        pytest.param(Present(record(Phase.BAKING, seq=2), 31), record(Phase.STAGING), "app:a", "back", id="lower seq"),
        pytest.param(Present(record(Phase.BAKING, 4, 9), 31), record(Phase.STAGING), "app:a", "back", id="lower gen"),
        pytest.param(ABSENT, record(Phase.BAKING), "app:b", "gone", id="vanished in progress"),
        pytest.param(Present("{", 31), record(Phase.BAKING), "app:b", "unreadable", id="no JSON"),
        pytest.param(Invalid("key is empty"), record(Phase.BAKING), "app:b", "empty", id="empty"),
        pytest.param(Present(record(Phase.STAGING, 6, v=2), 31), record(Phase.BAKING), "app:b", "version 2", id="v2"),
        pytest.param(Present(record(Phase.STAGING, 6), 31), record(Phase.BAKING), "app:a", "", id="next generation"),
        pytest.param(ABSENT, record(Phase.SUCCESSFUL), "app:c", "", id="vanished after its end"),
    ],
)
def test_what_is_read_of_the_record(rollout: Reading, seen: str, serve: str, note: str) -> None:
    """A record is followed forward only, and kept where it cannot be read."""
    desired = validate(read(Present("app:c", 40), Present("app:c", 40), rollout), having(seen), NODE, RUNNING).desired
    assert serves(desired) == serve
    assert note in "".join(desired.notes)


def test_a_lower_record_is_not_followed_after_the_one_seen_vanished() -> None:
    """The highest (generation, seq) outlives the record itself."""
    gone = validate(read(Present("app:b", 21)), having(record(Phase.SUCCESSFUL)), NODE, RUNNING)
    back = validate(
        read(Present("app:b", 21), rollout=Present(record(Phase.BAKING, 4), 50)), gone.last_applied, NODE, RUNNING
    )
    assert "went back" in "".join(back.desired.notes)


@pytest.mark.parametrize("unreadable", [Present("{", 31), Invalid("key is empty"), Present('{"v": 2}', 31)])
def test_keys_are_held_while_the_record_cannot_be_read(unreadable: Reading) -> None:
    """They may be mirrors of a rollout this agent does not understand: no release is staged or served by them."""
    validated = validate(read(Present("app:b", 50), Present("app:c", 51), unreadable), KNOWN, NODE, RUNNING)
    assert serves(validated.desired) == "app:a"
    assert validated.last_applied == KNOWN


def test_an_unreadable_record_is_not_absence_for_a_new_host() -> None:
    """Nothing serves, with the reason: neither the holding page nor a mirror."""
    validated = validate(read(Present("app:b", 50), rollout=Present("{", 31)), LastApplied(), NODE, RUNNING)
    assert isinstance(validated.desired.serve, Unchanged)
    assert "unreadable" in validated.desired.serve.reason


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.ABORTED])
def test_an_unreadable_active_key_is_not_absence_beside_a_record(phase: Phase) -> None:
    """S12: the holding page answers only on confirmed absence."""
    text = record(phase, source=None)
    validated = validate(read(Invalid("key is empty"), rollout=Present(text, 31)), LastApplied(), NODE, RUNNING)
    assert isinstance(validated.desired.serve, Unchanged)


def test_a_higher_generation_drops_the_baseline_of_the_keys() -> None:
    """`tidegate adopt` writes one: then values with lower indexes are followed."""
    seen = having(record(Phase.SUCCESSFUL, 5))
    adopted = read(Present("app:z", 2), Present("app:z", 2), Present(record(Phase.SUCCESSFUL, 6), 3))
    assert serves(validate(adopted, seen, NODE, RUNNING).desired) == "app:z"


@pytest.mark.parametrize(
    ("boot", "last_applied", "serve", "reason"),
    [
        pytest.param(BOOTING, KNOWN, "as it is", "at most 50s more", id="waits for Consul"),
        pytest.param(WAITED, KNOWN, "app:a", "going by the journal, confirmed 1m40s ago", id="then the journal"),
        pytest.param(WAITED, LastApplied(), "as it is", "journal names no release", id="nothing in it"),
        pytest.param(
            WAITED, KNOWN.replace(confirmed_at_wall=1000 - 90000.0), "as it is", "journal_max_age", id="too old"
        ),
        pytest.param(LATE, KNOWN.replace(confirmed_at_wall=None), "as it is", "journal_max_age", id="never confirmed"),
        pytest.param(
            WAITED, KNOWN.replace(confirmed_at_wall=2000.0), "as it is", "journal_max_age", id="from the future"
        ),
    ],
)
def test_what_a_host_does_at_boot_without_consul(
    boot: BootState, last_applied: LastApplied, serve: str, reason: str
) -> None:
    """boot_wait first, then the journal as long as it is young, else not ready."""
    desired = validate(Unknown("away"), last_applied, NODE, boot).desired
    assert serves(desired) == serve
    shown = desired.serve.reason if isinstance(desired.serve, Unchanged) else "".join(desired.notes)
    assert reason in shown


def test_a_reading_becomes_the_next_baseline_and_an_absence_does_not() -> None:
    """What was acted on is what the next reading is judged against."""
    first = validate(read(Present("app:a", 20), Present("app:b", 21)), LastApplied(), NODE, RUNNING).last_applied
    assert (first.active, first.stage, first.confirmed_at_wall) == (A, B, 1000)
    assert validate(read(), first, NODE, RUNNING).last_applied == first
    assert validate(Unknown("away"), first, NODE, RUNNING).last_applied == first

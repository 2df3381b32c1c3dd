"""What a node serves and holds: one row of the table in design.md, section 3, at a time."""

import pytest

from agent.core.host.desired import Desired, DesiredRelease, HoldingPage, Keys, Unchanged, desired
from agent.core.host.memory import KeyMemory
from agent.core.model.names import NodeName
from agent.core.model.record import Phase, RecordedRelease, RolloutRecord, node_hash
from agent.core.model.release import pin_of
from tests.sim.host.consul_model import ALL_NODES, NO_NODE, recorded

NODE = NodeName("web-1")
RECORD_INDEX = 30


def key(value: str, index: int) -> KeyMemory:
    return KeyMemory(value=value, modify_index=index)


def record(phase: Phase, *, source: str | None = "app:a", threshold: str = NO_NODE) -> RolloutRecord:
    before = recorded(source, 4) if source else None
    return RolloutRecord(
        generation=5, seq=2, phase=phase, source=before, target=recorded("app:b", 5), threshold=threshold
    )


def name(serve: object) -> str | None:
    match serve:
        case DesiredRelease(reference=reference):
            return reference
        case HoldingPage():
            return "holding page"
        case Unchanged(newcomer=newcomer):
            return f"as it is, a new host: {name(newcomer)}"
        case _:
            return None


def shown(followed: Desired) -> tuple[str | None, str | None, str | None]:
    """Return what is served, held and taken back."""
    return name(followed.serve), name(followed.hold), name(followed.taken_back)


@pytest.mark.parametrize(
    ("phase", "source", "threshold", "expected"),
    [
        (Phase.PENDING, "app:a", NO_NODE, ("app:k", None, None)),
        (Phase.STAGING, "app:a", NO_NODE, ("app:a", "app:b", None)),
        (Phase.READY, "app:a", ALL_NODES, ("app:a", "app:b", None)),
        (Phase.CANARY, "app:a", NO_NODE, ("app:a", "app:b", None)),
        (Phase.CANARY, "app:a", ALL_NODES, ("app:b", "app:a", None)),
        (Phase.AWAITING_PROMOTION, "app:a", ALL_NODES, ("app:b", "app:a", None)),
        (Phase.SWITCHING, "app:a", ALL_NODES, ("app:b", "app:a", None)),
        (Phase.SWITCHING, "app:a", NO_NODE, ("app:a", "app:b", None)),
        (Phase.BAKING, "app:a", NO_NODE, ("app:b", "app:a", None)),
        (Phase.RETIRING, "app:a", NO_NODE, ("app:b", None, None)),
        (Phase.ABORTING, "app:a", NO_NODE, ("app:a", None, "app:b")),
        (Phase.ROLLING_BACK, "app:a", NO_NODE, ("app:a", None, "app:b")),
        (Phase.STAGING, None, NO_NODE, ("holding page", "app:b", None)),
        (Phase.SWITCHING, None, NO_NODE, ("holding page", "app:b", None)),
        (Phase.SWITCHING, None, ALL_NODES, ("app:b", None, None)),
        (Phase.BAKING, None, NO_NODE, ("app:b", None, None)),
        (Phase.ABORTING, None, NO_NODE, ("holding page", None, "app:b")),
    ],
)
def test_a_rollout_in_progress_is_read_from_the_record_alone(
    phase: Phase, source: str | None, threshold: str, expected: tuple[str | None, ...]
) -> None:
    """The keys are mirrors then: what they say, or that they are gone, changes nothing (but in `pending`)."""
    given = record(phase, source=source, threshold=threshold)
    keys = Keys(key("app:k", 40), key("app:x", 41), given, RECORD_INDEX)
    assert shown(desired(keys, NODE)) == expected
    if phase is not Phase.PENDING:
        assert desired(Keys(None, None, given, RECORD_INDEX), NODE) == desired(keys, NODE)


def test_pending_without_an_active_image_keeps_the_holding_page() -> None:
    """A first deploy that has not begun yet."""
    assert shown(desired(Keys(None, None, record(Phase.PENDING, source=None)), NODE)) == ("holding page", None, None)


@pytest.mark.parametrize(
    ("active", "stage", "expected"),
    [
        (None, None, ("holding page", None, None)),
        (key("app:a", 5), None, ("app:a", None, None)),
        (key("app:a", 5), key("app:a", 9), ("app:a", None, None)),
        (key("app:a", 5), key("app:b", 9), ("app:a", "app:b", None)),
        (key("app:a", 9), key("app:b", 5), ("app:a", None, "app:b")),
        (None, key("app:b", 5), ("holding page", "app:b", None)),
    ],
)
@pytest.mark.parametrize("ended", [None, Phase.SUCCESSFUL, Phase.ABORTED, Phase.ROLLED_BACK])
def test_by_hand_the_two_image_keys_decide(
    active: KeyMemory | None, stage: KeyMemory | None, expected: tuple[str | None, ...], ended: Phase | None
) -> None:
    """Without a record, or after its end: stage is held when it is newer, taken back when it is older."""
    keys = Keys(active, stage, record(ended) if ended else None, RECORD_INDEX)
    assert shown(desired(keys, NODE)) == expected


@pytest.mark.parametrize(
    ("phase", "image", "generation"),
    [(Phase.SUCCESSFUL, "app:b", 5), (Phase.ABORTED, "app:a", 4), (Phase.ROLLED_BACK, "app:a", 4)],
)
def test_the_final_release_keeps_its_pin_and_spec(phase: Phase, image: str, generation: int) -> None:
    """By hand after a rollout `active/image` still names the very release the rollout left."""
    serve = desired(Keys(key(image, 31), key(image, 31), record(phase)), NODE).serve
    assert isinstance(serve, DesiredRelease)
    assert serve.release is not None
    assert serve.pin == pin_of(serve.release, generation)


def test_another_image_after_a_rollout_is_a_new_wish_by_hand() -> None:
    """It is known by its reference only."""
    serve = desired(Keys(key("app:c", 40), None, record(Phase.SUCCESSFUL)), NODE).serve
    assert serve == DesiredRelease(reference="app:c", key="app:c#40")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("active", "expected"),
    [
        (key("app:b", RECORD_INDEX), "as it is, a new host: app:b"),
        (key("app:b", RECORD_INDEX - 5), "as it is, a new host: app:b"),
        (None, "as it is, a new host: None"),
        (key("app:a", RECORD_INDEX + 1), "app:a"),
    ],
)
def test_after_rollback_failed_a_person_decides(active: KeyMemory | None, expected: str) -> None:
    """Until `active/image` changes, each host keeps what it serves; a new one takes `active/image`."""
    assert shown(desired(Keys(active, None, record(Phase.ROLLBACK_FAILED), RECORD_INDEX), NODE))[0] == expected


def test_a_step_takes_in_the_nodes_up_to_its_threshold() -> None:
    """The threshold that is a node's own hash includes it; one below does not."""
    own = node_hash(5, NODE)
    below = f"{int(own, 16) - 1:064x}"
    assert shown(desired(Keys(None, None, record(Phase.CANARY, threshold=own)), NODE))[0] == "app:b"
    assert shown(desired(Keys(None, None, record(Phase.CANARY, threshold=below)), NODE))[0] == "app:a"


def test_only_retiring_lets_the_source_go_without_local_silence() -> None:
    """Idleness is a fleet fact in a rollout."""
    given = {phase: desired(Keys(None, None, record(phase)), NODE).retire_now for phase in Phase}
    assert [phase for phase, now in given.items() if now] == [Phase.RETIRING]


@pytest.mark.parametrize("target", [recorded("app:b", 5), None])
def test_what_an_aborted_first_deploy_left_staged_is_not_held(target: RecordedRelease | None) -> None:
    """Also where one more was aborted before it staged anything; what is staged by hand after it is."""
    given = record(Phase.ABORTED, source=None).model_copy(update={"target": target})
    for index, held in ((RECORD_INDEX - 3, None), (RECORD_INDEX, None), (RECORD_INDEX + 1, "app:b")):
        assert shown(desired(Keys(None, key("app:b", index), given, RECORD_INDEX), NODE)) == (
            "holding page",
            held,
            None,
        )


@pytest.mark.parametrize(("image", "generation"), [("app:a", 4), ("app:b", 5)])
def test_after_rollback_failed_both_releases_keep_their_spec_and_pin(image: str, generation: int) -> None:
    """Whichever a person decides for, and what a new host takes: by its name alone it would run the default spec."""
    given = record(Phase.ROLLBACK_FAILED)
    chosen = desired(Keys(key(image, RECORD_INDEX + 1), None, given, RECORD_INDEX), NODE).serve
    left = desired(Keys(key(image, RECORD_INDEX), None, given, RECORD_INDEX), NODE).serve
    assert isinstance(left, Unchanged)
    for release in (chosen, left.newcomer):
        assert isinstance(release, DesiredRelease)
        assert release.release is not None
        assert release.pin == pin_of(release.release, generation)

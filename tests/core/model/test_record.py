"""The rollout record as nodes read it."""

import json

import pytest

from agent.core.model.errors import PermanentError
from agent.core.model.names import NodeName
from agent.core.model.record import Phase, node_hash, read_record

RELEASE = {"image": "app:b", "release": "0" * 12, "pin": "1" * 12}


def text(**changes: object) -> str:
    whole: dict[str, object] = {"v": 1, "generation": 3, "seq": 7, "phase": "staging", "target": RELEASE}
    return json.dumps(whole | changes)


def test_unknown_fields_of_the_same_version_are_ignored() -> None:
    """Tidegate wrote it, maybe a later build of the same `v`."""
    record = read_record(text(flags={"paused": True}, target=RELEASE | {"note": "x"}))
    assert (record.version, record.phase) == ((3, 7), Phase.STAGING)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("", "document"),
        ("[]", "document"),
        ('{"generation": 1}', "v: "),
        (text(v=2), "version 2"),
        (text(phase="dancing"), "phase"),
        (text(generation=0), "generation"),
        (text(target=None), "target is missing in phase staging"),
        (text(target=RELEASE | {"release": "xyz"}), "target.release"),
        (text(target=RELEASE | {"image": "a b"}), "target.image"),
        (text(threshold="7"), "threshold"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(broken: str, named: str) -> None:
    """The message names the field, for the operator."""
    with pytest.raises(PermanentError, match=named):
        read_record(broken)


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.ABORTING, Phase.ABORTED])
def test_a_target_may_be_missing_before_it_is_resolved(phase: Phase) -> None:
    """`pending`, and an abort from there."""
    assert read_record(text(phase=phase, target=None)).target is None


def test_terminal_phases_and_their_finals() -> None:
    """Final = target for successful, source for aborted and rolled_back, none for rollback_failed; pending: source."""
    source = RELEASE | {"image": "app:a"}
    finals = {phase: read_record(text(phase=phase, source=source)).final for phase in Phase}
    images = {phase: final.image for phase, final in finals.items() if final}
    assert images.pop(Phase.PENDING) == "app:a"
    assert images == {Phase.SUCCESSFUL: "app:b", Phase.ABORTED: "app:a", Phase.ROLLED_BACK: "app:a"}
    assert {phase for phase in Phase if phase.is_terminal} == {*images, Phase.ROLLBACK_FAILED}


def test_the_order_of_nodes_is_another_one_in_each_rollout() -> None:
    """A canary is not always the same host."""
    nodes = [NodeName(f"web-{number}") for number in range(20)]
    first, second = (sorted(nodes, key=lambda node: node_hash(generation, node)) for generation in (1, 2))
    assert first != second

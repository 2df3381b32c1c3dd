"""What `tidegate adopt` writes, and that a host which held a state that went back then follows it."""

import pytest

from agent.core.host.desired import DesiredRelease
from agent.core.host.memory import KeyMemory, LastApplied
from agent.core.host.validate import BootState, validate
from agent.core.model.errors import PermanentError
from agent.core.model.keys import ABSENT, Invalid, KeySnapshot, Known, Present
from agent.core.model.names import ImageReference, NodeName
from agent.core.model.record import read_record
from agent.core.rollout.adopt import adopt
from agent.core.rollout.change import audit_of
from agent.core.rollout.commands import CommandAuthor
from agent.core.rollout.decision import write_decision

BOOT = BootState(is_running=True, confirmed=True, waited_s=100.0)
NODE = NodeName("web-1")
ME = CommandAuthor("me", "restored", 0.0)


def test_the_generation_is_above_every_one_seen() -> None:
    """Of the record and of all reports, whatever else these hold; junk counts as none."""
    snapshot = KeySnapshot(active=Present("app:a", 5), rollout=Present('{"generation": 3}', 4))
    made = adopt(snapshot, ['{"generation": 7, "v": 99}', "junk", "{}"], ME)
    record = read_record(write_decision(made.record))
    assert (record.generation, record.phase.is_terminal) == (8, True)


def test_its_audit_entry_names_what_is_followed_who_asked_and_why() -> None:
    """As the history shows it."""
    made = adopt(KeySnapshot(active=Present("app:a", 5)), [], ME)
    entry = audit_of(made, by="me", now=0.0)
    assert (entry["what"], entry["active"], entry["author"], entry["reason"]) == ("adopted", "app:a", "me", "restored")


@pytest.mark.parametrize("active", [ABSENT, Invalid("key cs90/active/image is empty")])
def test_without_a_usable_active_image_there_is_nothing_to_adopt(active: Invalid) -> None:
    """The message says what to do first."""
    with pytest.raises(PermanentError, match="set it first"):
        adopt(KeySnapshot(active=active), [], ME)


def test_a_host_that_held_a_state_that_went_back_follows_it_once_adopted() -> None:
    """Another value with a lower index is held; with the adopted record it is followed."""
    last_applied = LastApplied(active=KeyMemory(value="app:b", modify_index=30))
    restored = KeySnapshot(active=Present("app:a", 12))
    held = validate(Known(restored), last_applied, NODE, BOOT)
    assert isinstance(held.desired.serve, DesiredRelease)
    assert held.desired.serve.reference == ImageReference("app:b")
    assert "tidegate adopt" in " ".join(held.desired.notes)
    made = adopt(restored, [], ME)
    followed = validate(
        Known(KeySnapshot(active=Present("app:a", 12), rollout=Present(write_decision(made.record), 40))),
        held.last_applied,
        NODE,
        BOOT,
    )
    assert isinstance(followed.desired.serve, DesiredRelease)
    assert followed.desired.serve.reference == ImageReference("app:a")
    assert followed.desired.notes == ()

"""What a change comes to in Consul: guards, mirrors, members, and one audit entry."""

import json
from dataclasses import replace

import pytest

from agent.core.model.keys import KeySnapshot, Present
from agent.core.model.names import AppName
from agent.core.model.record import Phase
from agent.core.rollout.change import Change, Guard, Indexes, Write, audit_of, members_document, mirror_of, signed
from agent.core.rollout.change import writes_of as all_writes_of
from agent.core.rollout.commands import CommandAuthor, pause
from agent.core.rollout.decision import read_decision, write_decision
from agent.core.rollout.strategy import Strategy
from tests.core.rollout.fixtures import LINES, NOW, A, B, after, changed, fleet, record

SHOP = AppName("shop")
READ = Indexes(record=41, active=17)


def writes_of(change: Change) -> dict[str, Write]:
    writes = all_writes_of(SHOP, change, READ, by="web-1", now=NOW)
    assert len({write.key for write in writes}) == len(writes)
    return {write.key: write for write in writes}


def test_staging_is_written_whole() -> None:
    """Record by index, entry created, active as it was read, mirror with its spec, members."""
    change = changed(after(1, record(Phase.PENDING), fleet("web-1 serves", "web-2 serves")))
    writes = writes_of(change)
    assert list(writes)[:2] == ["shop/rollout", "shop-status/history/5/8"]
    assert {key: (write.guard, write.index) for key, write in writes.items()} == {
        "shop/rollout": (Guard.CAS, 41),
        "shop-status/history/5/8": (Guard.CAS, 0),
        "shop/active/image": (Guard.CHECK, 17),
        "shop/stage/image": (Guard.NONE, 0),
        "shop/stage/spec": (Guard.NONE, 0),
        "shop-status/rollouts/5/members": (Guard.NONE, 0),
    }
    assert read_decision(writes["shop/rollout"].value.decode()) == change.record
    assert writes["shop/stage/image"].value.decode() == B.image
    assert json.loads(writes["shop/stage/spec"].value) == json.loads(mirror_of(B).spec or "")
    assert json.loads(writes["shop-status/rollouts/5/members"].value) == {"v": 1, "members": ["web-1", "web-2"]}


@pytest.mark.parametrize(
    ("phase", "hosts", "active", "stage"),
    [
        (Phase.READY, "web-1 staged", B, None),
        (Phase.SWITCHING, "web-1 switched", None, None),
        (Phase.SWITCHING, "web-1 sick", A, None),
        (Phase.RETIRING, "web-1 retired", B, B),
        (Phase.ABORTING, "web-1 serves", A, A),
        (Phase.ROLLING_BACK, "web-1 back", A, A),
        (Phase.ROLLING_BACK, "web-1 stuck", None, None),
    ],
)
def test_the_mirrors_go_with_the_record(phase: Phase, hosts: str, active: object, stage: object) -> None:
    """So that losing the record at any moment changes nothing that is served."""
    writes = writes_of(changed(after(1, record(phase), fleet(hosts))))
    for name, release in (("active", active), ("stage", stage)):
        written = writes.get(f"shop/{name}/image")
        assert (written.value.decode() if written else None) == (release.image if release else None)  # type: ignore[attr-defined]
        assert (f"shop/{name}/spec" in writes) == (written is not None)


def test_a_release_by_hand_leaves_the_spec_empty() -> None:
    """It is the app's default then, which each host has in its settings."""
    assert mirror_of(A.model_copy(update={"spec": None})).spec is None
    by_hand = A.model_copy(update={"spec": None})
    writes = writes_of(changed(after(1, record(Phase.ABORTING, source=by_hand), fleet("web-1 serves"))))
    assert writes["shop/active/spec"].value == b"{}"


def test_s13_a_change_has_exactly_one_audit_entry() -> None:
    """Named by the record's version and only created: no change shares another one's, none is written twice."""
    given, seen = record(Phase.STAGING), fleet("web-1 staged")
    for seq in (8, 9):
        change = changed(after(1, given, seen))
        entries = [write for key, write in writes_of(change).items() if key.startswith("shop-status/history/")]
        assert [(entry.key, entry.guard, entry.index) for entry in entries] == [
            (f"shop-status/history/5/{seq}", Guard.CAS, 0)
        ]
        given = change.record


def test_an_audit_entry_says_who_what_why_from_to_and_when() -> None:
    """And the image, its author's reason, and the failed container's last lines."""
    change = signed(changed(after(1, record(Phase.STAGING), fleet("web-1 staged", "web-2 failed"))), 12)
    assert audit_of(change, by="core-1", now=NOW + 0.25) == {
        "v": 1,
        "at": "1970-01-12T13:46:40.250+00:00",
        "by": "core-1",
        "what": "abort began",
        "why": "web-2: exited with code 1",
        "from": Phase.STAGING,
        "to": Phase.ABORTING,
        "epoch": 12,
        "source": A.image,
        "target": B.image,
        "image": "app:b",
        "author": "ann",
        "reason": "new prices",
        "lines": list(LINES),
    }


def test_a_command_s_entry_says_why_it_was_given() -> None:
    """Not why the phase was entered."""
    keys = KeySnapshot(rollout=Present(write_decision(record(Phase.STAGING)), 41))
    entry = audit_of(pause(keys, CommandAuthor("bob", "lunch", NOW)), by="bob", now=NOW)
    assert (entry["what"], entry["why"], entry["from"], entry["to"]) == (
        "pause",
        "bob: lunch",
        Phase.STAGING,
        Phase.STAGING,
    )


def test_an_entry_of_a_record_without_request_or_releases_is_small() -> None:
    """Of `adopt`; long output is cut to the last lines."""
    bare = record(Phase.SUCCESSFUL, source=None, target=None, request=None)
    entry = audit_of(Change(bare, "adopted", lines=tuple(map(str, range(99)))), by="ann", now=NOW)
    assert set(entry) == {"v", "at", "by", "what", "why", "from", "to", "epoch", "lines"}
    assert entry["lines"] == [str(number) for number in range(79, 99)]
    assert entry["from"] is None


def test_a_transaction_is_far_from_consul_s_limits() -> None:
    """At any size of the fleet: a thousand members, reasons cut."""
    names = [f"web-{number}.a.long.domain.example" for number in range(1000)]
    one = record(Phase.PENDING, strategy=Strategy(min_members=1000))
    change = changed(after(1, one, fleet(*(f"{name} serves" for name in names))))
    writes = writes_of(change)
    assert len(writes) < 20
    assert sum(len(write.value) for write in writes.values()) < 64 * 1024
    assert len(writes["shop/rollout"].value) < 4096
    assert members_document(change.members or ()) == writes["shop-status/rollouts/5/members"].value


def test_an_epoch_is_the_writer_s() -> None:
    """Commands leave it as it was."""
    change = changed(after(1, record(Phase.STAGING), fleet("web-1 staged")))
    assert signed(change, 3) == replace(change, record=change.record.replace(epoch=3))

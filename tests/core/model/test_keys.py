"""Key names are the public contract; raw content is read into present, absent or invalid, and nothing else."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import keys
from agent.core.model.errors import PermanentError
from agent.core.model.keys import ABSENT, Invalid, KeySnapshot, KeyValue, Present, check_key, read_snapshot
from agent.core.model.names import parse_app, parse_node

APP = parse_app("cs90")
NODE = parse_node("web-3.example")


def test_key_names_are_those_of_the_contract() -> None:
    """The original's two keys and every key beside them are spelled as documented."""
    assert [
        keys.active_image(APP),
        keys.stage_image(APP),
        keys.active_spec(APP),
        keys.stage_spec(APP),
        keys.rollout(APP),
        keys.coordinator(APP),
        keys.members(APP, 7),
        keys.node_report(APP, NODE),
        keys.history(APP, 7, 3),
    ] == [
        "cs90/active/image",
        "cs90/stage/image",
        "cs90/active/spec",
        "cs90/stage/spec",
        "cs90/rollout",
        "cs90-status/coordinator",
        "cs90-status/rollouts/7/members",
        "cs90-status/nodes/web-3.example",
        "cs90-status/history/7/3",
    ]


def test_what_agents_write_lies_outside_of_what_nodes_watch() -> None:
    """A report wakes no node: no status key begins with the app's watched prefix."""
    written = [keys.coordinator(APP), keys.members(APP, 1), keys.node_report(APP, NODE), keys.history(APP, 1, 1)]
    assert not [key for key in written if key.startswith(keys.app_prefix(APP))]
    assert all(key.startswith(keys.status_prefix(APP)) for key in written)
    assert keys.node_report(APP, NODE).startswith(keys.node_reports(APP))
    assert keys.history(APP, 1, 1).startswith(keys.histories(APP))


def test_a_snapshot_holds_every_key_with_its_own_index() -> None:
    """Each key of the desired state is read; keys of the original that mean nothing now are ignored."""
    entries = [
        KeyValue("cs90/active/image", b"registry.local:5000/cs90:1", 11),
        KeyValue("cs90/active/port", b"8080", 12),
        KeyValue("cs90/active/spec", b'{"env": {}}', 13),
        KeyValue("cs90/enableserver", b"1", 14),
        KeyValue("cs90/rollout", b'{"v": 1}\n', 15),
        KeyValue("cs90/stage/image", b"cs90:2", 16),
        KeyValue("cs90/stage/spec", b"{}", 17),
    ]
    assert read_snapshot(APP, entries, 40) == KeySnapshot(
        active=Present("registry.local:5000/cs90:1", 11),
        stage=Present("cs90:2", 16),
        active_spec=Present('{"env": {}}', 13),
        stage_spec=Present("{}", 17),
        rollout=Present('{"v": 1}', 15),
    )


def test_nothing_is_absent_everywhere() -> None:
    """No entries: every key is absent, and the index is kept."""
    snapshot = read_snapshot(APP, [], 9)
    assert snapshot == KeySnapshot()
    assert snapshot.index == 9


@pytest.mark.parametrize("raw", [b"cs90:2\n", b" cs90:2 \r\n", b"cs90:2"])
def test_white_space_around_a_value_is_the_shells(raw: bytes) -> None:
    """``echo cs90:2 | consul kv put cs90/stage/image -`` means cs90:2."""
    assert read_snapshot(APP, [KeyValue("cs90/stage/image", raw, 5)], 5).stage == Present("cs90:2", 5)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "key cs90/active/image is empty"),
        (b" \n", "key cs90/active/image is empty"),
        (b"cs90:2; rm -rf /", "key cs90/active/image: 'cs90:2; rm -rf /' is no image reference"),
        (b"cs90:2\ncs90:3", "key cs90/active/image: 'cs90:2\\ncs90:3' is no image reference"),
        (b"cs90\xff", "key cs90/active/image is not UTF-8 text: byte 4 is 0xff"),
        (b"a" * 70_000, "key cs90/active/image holds 70000 bytes, at most 65536 are read"),
        (b"a" * 600, "key cs90/active/image: image reference is 600 characters long"),
        (b"\x00", "key cs90/active/image: '\\x00' is no image reference"),
    ],
)
def test_an_unusable_image_names_its_key_and_why(raw: bytes, reason: str) -> None:
    """The operator reads which key is wrong and what is wrong with it."""
    reading = read_snapshot(APP, [KeyValue("cs90/active/image", raw, 5)], 5).active
    assert isinstance(reading, Invalid)
    assert reading.reason.startswith(reason)


@pytest.mark.parametrize("key", ["cs90/rollout", "cs90/active/spec", "cs90/stage/spec"])
def test_documents_are_bounded_text(key: str) -> None:
    """Specs and the record are not parsed here, but are text of bounded size and not empty."""
    for raw in (b"", b"\xfe", b"x" * 65_537):
        snapshot = read_snapshot(APP, [KeyValue(key, raw, 5)], 5)
        readings = (snapshot.rollout, snapshot.active_spec, snapshot.stage_spec)
        assert [type(reading) for reading in readings if reading != ABSENT] == [Invalid]


def test_an_index_that_moved_for_foreign_keys_does_not_make_a_snapshot_differ() -> None:
    """Equal content is an equal snapshot, whatever else was written under the prefix."""
    entries = [KeyValue("cs90/active/image", b"cs90:1", 11)]
    assert read_snapshot(APP, entries, 20) == read_snapshot(APP, entries, 90)


def test_a_value_that_went_back_is_another_snapshot() -> None:
    """The same text under another ModifyIndex differs: the core judges it."""
    now = read_snapshot(APP, [KeyValue("cs90/active/image", b"cs90:1", 30)], 30)
    before = read_snapshot(APP, [KeyValue("cs90/active/image", b"cs90:1", 11)], 11)
    assert now != before


@given(st.binary(max_size=200))
def test_any_bytes_give_a_reading(raw: bytes) -> None:
    """No content of a key raises; what is present is safe to hand on."""
    reading = read_snapshot(APP, [KeyValue("cs90/stage/image", raw, 5)], 5).stage
    if isinstance(reading, Present):
        assert reading.value == raw.decode().strip()
        assert reading.value.isprintable()
    else:
        assert isinstance(reading, Invalid)
        assert "cs90/stage/image" in reading.reason


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/cs90",
        "cs90//x",
        "cs90/../x",
        "..",
        ".",
        "cs90/ x",
        "cs90/a:b",
        "cs90/%2F",
        "cs90/é",
        "a\n",
        "a" * 513,
    ],
)
def test_keys_that_a_server_would_refuse_or_rewrite_are_refused_first(key: str) -> None:
    """Only letters, digits, '.', '_', '-' between single slashes reach a URL."""
    with pytest.raises(PermanentError, match="is no key"):
        check_key(key)


@given(st.lists(st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=8), min_size=1, max_size=5))
def test_plain_keys_and_prefixes_pass_unchanged(segments: list[str]) -> None:
    """A well-formed key, or prefix with a final slash, comes back as it is."""
    key = "/".join(segments)
    assert check_key(key) == key
    assert check_key(f"{key}/") == f"{key}/"

"""Names that come from outside: what may be written in a key, on a socket, in a log line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model.names import (
    SlotName,
    parse_app,
    parse_digest,
    parse_node,
    parse_reference,
    printable,
    unambiguous_reference,
)

HEX64 = "0123456789abcdef" * 4


@pytest.mark.parametrize("good", ["cs90", "a", "my-app", "a" * 64, "status"])
def test_app_names_that_are_taken(good: str) -> None:
    assert parse_app(good) == good


@pytest.mark.parametrize("bad", ["", "-a", "a-", "A", "a_b", "a/b", "a" * 65, "cs90-status", "a\n", "a b"])
def test_app_names_that_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="app name"):
        parse_app(bad)


@pytest.mark.parametrize("good", ["web-1", "i-0abc", "ip-10-0-0-1.eu-west-1.compute.internal", "A_b", "x" * 128])
def test_node_names_that_are_taken(good: str) -> None:
    assert parse_node(good) == good


@pytest.mark.parametrize("bad", ["", ".", "..", "-a", "a/b", "a b", "a\n", "x" * 129, "ä"])
def test_node_names_that_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="node name"):
        parse_node(bad)


@pytest.mark.parametrize(
    "good",
    ["app", "app:1", "reg.example:5000/team/app:v1.2_3", f"app@sha256:{HEX64}", f"127.0.0.1:5000/a:b@sha256:{HEX64}"],
)
def test_references_that_are_taken(good: str) -> None:
    assert parse_reference(good) == good


@pytest.mark.parametrize(
    "bad",
    ["", "App", "app:", ":1", "app:1;reboot", "app 1", "app\n", "app@sha256:12", "-a", "a//b", "a" * 513, "http://a/b"],
)
def test_references_that_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="reference"):
        parse_reference(bad)


@given(st.text(max_size=40))
def test_what_a_reference_may_be_is_safe_on_a_socket_and_in_a_key(text: str) -> None:
    """Whatever passes holds no space, control character, quote or ';'."""
    try:
        taken = parse_reference(text)
    except ValueError:
        return
    assert not set(taken) & set(" \t\r\n;'\"\\<>&|$`\0")
    assert taken.isascii()


def test_a_digest_is_sha256_and_64_hex_digits() -> None:
    assert parse_digest(f"sha256:{HEX64}") == f"sha256:{HEX64}"
    for bad in ("", HEX64, f"sha512:{HEX64}", f"sha256:{HEX64}0", f"sha256:{HEX64[:-1]}G"):
        with pytest.raises(ValueError, match="digest"):
            parse_digest(bad)


@given(st.text(max_size=200))
def test_untrusted_text_is_printed_harmlessly(text: str) -> None:
    """One line of ASCII without markup, of bounded length."""
    shown = printable(text, 20)
    assert shown.isascii()
    assert shown.isprintable()
    assert not set(shown) & set("<>")
    assert len(shown) <= 20 * 10 + 5


def test_each_slot_is_the_other_ones_other() -> None:
    assert [slot.other.other for slot in SlotName] == list(SlotName)
    assert SlotName.BLUE.other is SlotName.GREEN


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("shop:b", "shop:b"),
        ("registry.example:5000/shop", "registry.example:5000/shop"),
        (f"registry.example:5000/shop:b@sha256:{'a' * 64}", "registry.example:5000/shop:b"),
        (f"registry.example:5000/shop@sha256:{'a' * 64}", f"registry.example:5000/shop@sha256:{'a' * 12}"),
    ],
)
def test_a_digest_is_told_only_where_nothing_else_tells_releases_apart(reference: str, told: str) -> None:
    """Reasons and summaries have room for little."""
    assert unambiguous_reference(parse_reference(reference)) == told

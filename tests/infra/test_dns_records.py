"""The names of Consul servers, as pure functions."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from infra.dns_records import Change, Record, Server, changes, desired

BEGAN = datetime(2026, 11, 22, tzinfo=UTC)
DOMAIN = "cs90"


def server(number: int, zone: str, *, minutes: int = 0) -> Server:
    return Server(BEGAN + timedelta(minutes=minutes), f"i-{number}", zone, f"ip-10-43-1-{number}.ec2.internal")


SERVERS = st.lists(
    st.builds(
        server,
        st.integers(1, 250),
        st.sampled_from(["us-east-1a", "us-east-1b", "us-east-1d"]),
        minutes=st.integers(0, 9),
    ),
    max_size=6,
    unique_by=lambda each: each.instance,
)


def test_three_servers_get_three_names() -> None:
    wanted = desired([server(1, "us-east-1a"), server(2, "us-east-1b"), server(3, "us-east-1d")], DOMAIN)
    assert [str(change) for change in changes(wanted, {})] == [
        "+ consul.us-east-1a.cs90 -> ip-10-43-1-1.ec2.internal",
        "+ consul.us-east-1b.cs90 -> ip-10-43-1-2.ec2.internal",
        "+ consul.us-east-1d.cs90 -> ip-10-43-1-3.ec2.internal",
    ]


def test_the_name_follows_the_server_launched_last() -> None:
    old, new = server(1, "us-east-1a"), server(2, "us-east-1a", minutes=5)
    wanted = desired([new, old], DOMAIN)
    assert [str(change) for change in changes(wanted, desired([old], DOMAIN))] == [
        "~ consul.us-east-1a.cs90 -> ip-10-43-1-2.ec2.internal (was ip-10-43-1-1.ec2.internal)",
    ]


def test_when_the_newer_one_goes_the_name_returns_to_the_older() -> None:
    old, new = server(1, "us-east-1a"), server(2, "us-east-1a", minutes=5)
    (change,) = changes(desired([old], DOMAIN), desired([old, new], DOMAIN))
    assert change == Change("UPSERT", Record("consul.us-east-1a.cs90", old.host), new.host)


def test_a_zone_without_a_server_loses_its_name() -> None:
    (change,) = changes({}, desired([server(1, "us-east-1a")], DOMAIN))
    assert str(change) == "- consul.us-east-1a.cs90 (was ip-10-43-1-1.ec2.internal)"


def test_a_server_changes_its_own_zones_name_only() -> None:
    wanted = desired([server(1, "us-east-1a"), server(2, "us-east-1b")], DOMAIN)
    assert [each.record.name for each in changes(wanted, {}, zone="us-east-1b")] == ["consul.us-east-1b.cs90"]


@given(SERVERS, SERVERS)
def test_after_the_changes_nothing_is_left_to_change(before: list[Server], after: list[Server]) -> None:
    names, wanted = desired(before, DOMAIN), desired(after, DOMAIN)
    for change in changes(wanted, names):
        if change.action == "DELETE":
            assert names.pop(change.record.name) == change.record
        else:
            names[change.record.name] = change.record
    assert names == wanted
    assert changes(wanted, names) == ()


@given(SERVERS)
def test_order_does_not_matter(servers: list[Server]) -> None:
    assert desired(servers, DOMAIN) == desired(reversed(servers), DOMAIN)

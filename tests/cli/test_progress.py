"""Following a rollout, without a Consul: what is told of a look, and when a command has reached its goal."""

from datetime import UTC, datetime

import pytest

from agent.adapters.consul.fleet import FleetReading
from agent.adapters.consul.fleet_snapshot import FleetSnapshot, Lock
from agent.adapters.consul.history import Entry
from agent.adapters.consul.services import CheckStatus, Instance
from agent.cli.exit_codes import Exit
from agent.cli.options import WaitUntil
from agent.cli.rollout.progress import Direction, Followed, ProgressState, diff, how_to_come_back, result_of
from agent.cli.views.fleet import FleetView, view_of
from agent.core.model.keys import ABSENT, KeySnapshot, Present
from agent.core.model.names import AppName, ImageReference, NodeName, Pin, ReleaseId
from agent.core.model.record import Phase, RecordedRelease
from agent.core.rollout.decision import Decision, Flags, Request, write_decision
from agent.core.rollout.strategy import Strategy
from tests.fake_hosts import first_report

NOW = 1_000_000.0


def release(letter: str) -> RecordedRelease:
    """Return a release of an image named by *letter*."""
    image = ImageReference(f"registry.example/shop:{letter}@sha256:{letter * 64}")
    return RecordedRelease(image=image, release=ReleaseId(letter * 12), pin=Pin(letter * 12))


def a_record(phase: Phase, **changes: object) -> Decision:
    """Return rollout 7 from a to b in *phase*."""
    record = Decision(
        generation=7,
        seq=3,
        phase=phase,
        source=release("a"),
        target=release("b"),
        request=Request(image=ImageReference("registry.example/shop:b")),
        author="ann",
        reason="new prices",
        why="so it came",
        since=NOW - 10,
        deadline=NOW + 60,
        created_at=NOW - 30,
    )
    return record.replace(**changes)


def a_view(
    record: Decision | None, *, coordinators: bool = True, nodes: tuple[str, ...] = ("web-1", "web-2")
) -> FleetView:
    """Return a look at a fleet in which every host serves a."""
    names = [NodeName(node) for node in nodes]
    keys = KeySnapshot(rollout=Present(write_decision(record), 5) if record else ABSENT)
    agents = tuple(
        Instance(node, node, "10.0.0.1", 1, {"node": node, "app": "shop", "zone": f"zone-{node}"}, CheckStatus.PASSING)
        for node in names
    )
    reading = FleetReading(
        keys=keys,
        reports={node: first_report("shop", node) for node in names},
        live={node: f"{node}-boot" for node in names},
        members=tuple(names),
        coordinators={NodeName("core-1"): "x"} if coordinators else {},
        instances=agents,
    )
    lock = Lock("core-1", 4) if coordinators else None
    return view_of(FleetSnapshot(AppName("shop"), reading, NOW, lock))[0]


def an_entry(seq: int, phase: Phase, was: Phase, **words: str) -> Entry:
    """Return an audit entry."""
    at = datetime.fromtimestamp(NOW - 100 + seq, UTC)
    return Entry(generation=7, seq=seq, at=at, phase=phase, was=was, **{"by": "core-1", **words})


FORWARD = Followed(7)


@pytest.mark.parametrize(
    ("phase", "wait_until", "code"),
    [
        (Phase.STAGING, WaitUntil.SWITCHED, None),
        (Phase.SWITCHING, WaitUntil.SWITCHED, None),
        (Phase.BAKING, WaitUntil.SWITCHED, Exit.DONE),
        (Phase.RETIRING, WaitUntil.SWITCHED, Exit.DONE),
        (Phase.BAKING, WaitUntil.DONE, None),
        (Phase.SUCCESSFUL, WaitUntil.DONE, Exit.DONE),
        (Phase.AWAITING_PROMOTION, WaitUntil.SWITCHED, None),
        (Phase.AWAITING_PROMOTION, WaitUntil.PROMOTION, Exit.DONE),
        (Phase.BAKING, WaitUntil.PROMOTION, Exit.DONE),
        (Phase.ABORTING, WaitUntil.PROMOTION, None),
        (Phase.ABORTED, WaitUntil.SWITCHED, Exit.TAKEN_BACK),
        (Phase.ROLLED_BACK, WaitUntil.DONE, Exit.TAKEN_BACK),
        (Phase.ROLLBACK_FAILED, WaitUntil.SWITCHED, Exit.TAKEN_BACK),
    ],
)
def test_a_deploy_ends_where_it_was_asked_to(phase: Phase, wait_until: WaitUntil, code: Exit | None) -> None:
    """Taken back is no success, whatever was waited for."""
    end = result_of(a_view(a_record(phase)), Followed(7, wait_until))
    assert (end.code if end else None) == code


def test_what_serves_already_is_a_success_with_nothing_to_do() -> None:
    """A pipeline that runs again deploys what it deployed before."""
    noop = a_record(Phase.ABORTED, target=release("a"), why="shop:a is what serves already")
    end = result_of(a_view(noop), Followed(7))
    assert end is not None
    assert (end.code, end.text) == (Exit.DONE, "rollout 7 had nothing to do: shop:a is what serves already")


@pytest.mark.parametrize(
    ("phase", "code"),
    [
        (Phase.ROLLING_BACK, None),
        (Phase.BAKING, None),
        (Phase.ROLLED_BACK, Exit.DONE),
        (Phase.ABORTED, Exit.DONE),
        (Phase.ROLLBACK_FAILED, Exit.TAKEN_BACK),
        (Phase.SUCCESSFUL, Exit.ERROR),
    ],
)
def test_a_way_back_is_done_when_it_is_back(phase: Phase, code: Exit | None) -> None:
    """A rollout that ended successfully all the same is an error of who wanted it back."""
    end = result_of(a_view(a_record(phase)), Followed(7, WaitUntil.DONE, Direction.BACK))
    assert (end.code if end else None) == code


def test_a_staged_fleet_that_waits_for_promote_is_a_goal() -> None:
    """Of --manual; not once somebody promoted it."""
    manual = a_record(Phase.READY, strategy=Strategy(waits_for_promote=True))
    end = result_of(a_view(manual), Followed(7, WaitUntil.PROMOTION))
    assert end is not None
    assert end.text == "rollout 7 is staged on every host; `tidegate promote` goes on"
    promoted = manual.replace(flags=Flags(promoted=True))
    assert result_of(a_view(promoted), Followed(7, WaitUntil.PROMOTION)) is None


@pytest.mark.parametrize("record", [None, a_record(Phase.STAGING, generation=6)])
def test_a_record_that_went_back_ends_the_following(record: Decision | None) -> None:
    """A restored snapshot; it says what accepts it."""
    end = result_of(a_view(record), FORWARD)
    assert end is not None
    assert (end.code, "tidegate adopt" in end.text) == (Exit.ERROR, True)


def test_a_newer_rollout_is_judged_by_the_history() -> None:
    """Not by the record any more."""
    assert result_of(a_view(a_record(Phase.STAGING, generation=8)), FORWARD) is None


def test_each_change_is_told_once_with_the_time_it_was_written() -> None:
    """Also those between two looks; then nothing is new."""
    entries = (
        an_entry(1, Phase.STAGING, Phase.PENDING, what="staging began", why="on 2 host(s)"),
        an_entry(2, Phase.READY, Phase.STAGING, what="all hosts are staged"),
        an_entry(3, Phase.SWITCHING, Phase.READY, what="every host may switch", why="promoted"),
    )
    view = a_view(a_record(Phase.SWITCHING))
    seen, lines = diff(ProgressState(seq=1), view, entries)
    assert [(line.text, line.at) for line in lines] == [
        ("ready: all hosts are staged", NOW - 98),
        ("switching: every host may switch, promoted", NOW - 97),
    ]
    assert diff(seen, view, entries)[1] == ()


def test_without_its_history_the_record_speaks_for_itself() -> None:
    """A token may not read everything."""
    _, lines = diff(ProgressState(), a_view(a_record(Phase.STAGING)), ())
    assert [line.text for line in lines] == ["staging: so it came"]


def test_what_an_operator_set_is_told_with_their_words() -> None:
    """Pause, and who; control characters in foreign words do nothing."""
    record = a_record(Phase.SWITCHING, flags=Flags(paused=True, note="bob: lu\x1bnch"))
    paused = Entry(
        generation=7, seq=3, at=datetime.now(UTC), by="bob", what="pause", phase=record.phase, was=record.phase
    )
    _, lines = diff(ProgressState(seq=2), a_view(record), (paused,))
    assert lines[0].text == "pause by bob: bob: lu\N{REPLACEMENT CHARACTER}nch"


def test_no_coordinator_is_told_and_so_is_the_next_one() -> None:
    """Once each."""
    record = a_record(Phase.STAGING)
    seen, lines = diff(ProgressState(seq=3), a_view(record, coordinators=False), ())
    assert [line.text[:55] for line in lines] == ["no coordinator is running; the rollout will not advance"]
    assert diff(seen, a_view(record, coordinators=False), ())[1] == ()
    _, lines = diff(seen, a_view(record), ())
    assert [line.text for line in lines] == ["a coordinator lives: core-1 (epoch 4)"]


def test_numbers_that_move_are_no_news_of_a_host() -> None:
    """A pull's percentage does not fill a log; how hosts are at first is no news either."""
    view = a_view(a_record(Phase.STAGING))
    first, lines = diff(ProgressState(seq=3), view, ())
    assert lines == ()

    def news_after(words: str) -> list[str]:
        before = ProgressState(first.seq, {NodeName("web-1"): words, NodeName("web-2"): first.hosts[NodeName("web-2")]})
        told = diff(before, view, ())[1]
        assert all(line.is_of_a_host for line in told)
        return [line.text for line in told]

    now = first.hosts[NodeName("web-1")]
    assert "acted on 0" in now
    assert news_after(now.replace("acted on 0", "acted on 6")) == []
    assert news_after("gone") == [f"web-1: {now}"]


@pytest.mark.parametrize(
    ("phase", "back"),
    [(Phase.PENDING, "abort"), (Phase.READY, "abort"), (Phase.BAKING, "rollback"), (Phase.ROLLING_BACK, "")],
)
def test_who_leaves_is_told_what_ends_it(phase: Phase, back: str) -> None:
    """Abort before the commit, rollback after it, nothing on the way back."""
    words = how_to_come_back("shop", a_record(phase), 7)
    assert words.startswith("rollout 7 goes on: `tidegate status --app shop --watch` shows it")
    assert (f"`tidegate {back} --app shop`" in words) == bool(back)


def test_zones_are_shown_where_agents_tell_them() -> None:
    """Of the service's meta."""
    assert [row.zone for row in a_view(None).rows] == ["zone-web-1", "zone-web-2"]

"""Which release a rollout starts from: the one that all live hosts serve."""

import pytest

from agent.core.model.names import ImageReference, SlotName
from agent.core.model.record import Phase, RecordedRelease
from agent.core.rollout.decision import Decision
from agent.core.rollout.fleet import Fleet
from agent.core.rollout.source import UnclearSourceError, source_of
from tests.core.rollout.fixtures import REQUEST, A, C, fleet, record

FORCED = REQUEST.model_copy(update={"forces_source": True})
BY_HAND = A.model_copy(update={"spec": None})
OTHER = ImageReference("app:other")


def pending(**changes: object) -> Decision:
    return record(Phase.PENDING, **changes)


def showing(seen: Fleet, **changes: object) -> Fleet:
    """Return the fleet with what serves reported otherwise."""
    for host in seen:
        assert host.report is not None
        serving = host.report.slots[SlotName.BLUE]
        host.report.slots[SlotName.BLUE] = serving.model_copy(update=changes)
    return seen


@pytest.mark.parametrize(
    ("hosts", "source", "expected"),
    [
        (["web-1 serves", "web-2 serves"], A, A),
        (["web-1 serves", "web-2 nothing", "web-3 unknown"], A, A),
        (["web-1 serves", "web-2 serves-c lost", "web-3 serves-c leaving", "web-4 serves-c silent"], A, A),
        (["web-1 down"], A, A),
        (["web-1 serves"], C, BY_HAND),
        (["web-1 serves"], None, BY_HAND),
        (["web-1 nothing"], A, A),
        ([], A, A),
    ],
)
def test_the_source_is_what_all_live_reports_serve(
    hosts: list[str], source: RecordedRelease | None, expected: RecordedRelease
) -> None:
    """As the rollout before recorded it, else by hand: with the app's default spec. Who serves nothing has no say."""
    assert source_of(pending(source=source), fleet(*hosts)) == expected


def test_a_first_deploy_has_none() -> None:
    """Nobody serves, and nobody should."""
    assert source_of(pending(source=None), fleet("web-1 nothing", active=None)) is None


@pytest.mark.parametrize(
    ("hosts", "active", "said", "forced"),
    [
        (["web-1 serves", "web-2 serves-c", "web-3 serves-c"], A.image, "hosts serve different releases (web-1", "C"),
        (["web-1 serves", "web-2 serves-c"], A.image, "web-2 serves app:c@", "either"),
        (["web-1 nothing"], A.image, "no host serves, though active/image is app:a@", None),
        (["web-1 serves"], OTHER, "active/image is app:other, which no host serves yet: a change by hand", "A"),
    ],
)
def test_an_unclear_source_is_refused_unless_forced(
    hosts: list[str], active: ImageReference, said: str, forced: str | None
) -> None:
    """With what to do about it: the forced one is what most hosts serve."""
    seen = fleet(*hosts, active=active)
    with pytest.raises(UnclearSourceError) as caught:
        source_of(pending(source=None), seen)
    assert said in str(caught.value)
    assert "--force-source" in str(caught.value)
    found = source_of(pending(source=None, request=FORCED), seen)
    names = {None: None, "A": A.release, "C": C.release, "either": min(A.release, C.release)}
    assert (found.release if found else None) == names[forced]


def test_a_record_without_a_request_is_not_forced() -> None:
    """Nothing says so."""
    with pytest.raises(UnclearSourceError):
        source_of(pending(source=None, request=None), fleet("web-1 nothing"))


def test_a_release_by_hand_is_pinned_by_the_digest_it_runs() -> None:
    """So that its tag may move on: hosts that boot meanwhile get the same."""
    seen = showing(fleet("web-1 serves", active=ImageReference("app:a")), image="app:a")
    assert source_of(pending(source=None), seen) == BY_HAND


def test_a_report_that_names_no_release_is_an_unclear_source() -> None:
    """A host may report anything; a coordinator must not fall over it."""
    for junk in ({"image": "a b"}, {"digest": "", "image": "app:a"}, {"pin": "x"}, {"release": "no hash"}):
        seen = showing(fleet("web-1 serves", active=None), **junk)
        with pytest.raises(UnclearSourceError, match="which names no release"):
            source_of(pending(source=None), seen)

"""Durations as operators write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agent.core.model.durations import MAX_S, Duration, format_duration, parse_duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("250ms", 0.25), ("10s", 10), ("1.5s", 1.5), ("5m", 300), ("1h30m", 5400), ("2d", 172800), (7, 7), (0.5, 0.5)],
)
def test_durations_that_are_taken(written: object, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    ["", "10", "s", "-1s", "1 s", "1x", "1s ", None, True, [], "367d", -1, MAX_S + 1, float("nan"), float("inf")],
)
def test_durations_that_are_refused_with_the_accepted_forms(written: object) -> None:
    with pytest.raises(ValueError, match="1h30m"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (9.97, "10.0s"),
        (45, "45s"),
        (200, "3m20s"),
        (7200, "2h"),
        (-75, "-1m15s"),
    ],
)
def test_how_people_read_them(seconds: float, written: str) -> None:
    assert format_duration(seconds) == written


@given(st.floats(0, MAX_S))
def test_what_is_written_can_be_read_again(seconds: float) -> None:
    """Two units are kept, so the loss is below the second unit."""
    again = parse_duration(format_duration(seconds))
    assert again == pytest.approx(seconds, rel=0.05, abs=0.06)


def test_a_field_reads_and_writes_the_notation() -> None:
    class Knob(BaseModel):
        wait: Duration

    assert Knob.model_validate({"wait": "1m"}).wait == 60
    assert Knob(wait=90).model_dump_json() == '{"wait":"1m30s"}'
    assert Knob(wait=90).model_dump() == {"wait": 90}


@given(st.floats(0, MAX_S))
def test_a_written_duration_reads_back_as_the_same(seconds: float) -> None:
    """A copy of a document, and the hash over it, must not differ from it."""

    class Document(BaseModel):
        wait: Duration

    document = Document(wait=seconds)
    again = Document.model_validate_json(document.model_dump_json())
    assert again == document
    assert again.model_dump_json() == document.model_dump_json()

"""The knobs and their arithmetic."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.core.model.durations import format_duration
from agent.core.rollout.strategy import Strategy, hosts_of


@pytest.mark.parametrize(
    ("share", "total", "hosts"),
    [
        ("0", 10, 0),
        ("2", 10, 2),
        ("20", 10, 10),
        ("0%", 10, 0),
        ("10%", 10, 1),
        ("10%", 11, 2),
        ("10%", 1, 1),
        ("10%", 0, 0),
        ("33%", 3, 1),
        ("34%", 3, 2),
        ("100%", 1000, 1000),
        ("7%", 100, 7),
    ],
)
def test_a_share_is_a_number_or_a_percentage_rounded_up(share: str, total: int, hosts: int) -> None:
    """Never more than there are."""
    assert hosts_of(share, total) == hosts


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"steps": ("0",)}, "a step must have at least one host"),
        ({"steps": ("00%",)}, "a step must have at least one host"),
        ({"steps": ()}, "at least 1"),
        ({"steps": ("1",) * 21}, "at most 20"),
        ({"steps": ("5", "2")}, "steps 5, 2 must increase"),
        ({"steps": ("2", "2")}, "must increase"),
        ({"steps": ("50%", "10%")}, "must increase"),
        ({"steps": ("100%", "5")}, "no step can follow 100%"),
        ({"steps": ("101%",)}, "'101%' is neither a number of hosts nor a percentage: write 2 or 10%"),
        ({"steps": ("-1",)}, "neither"),
        ({"max_failed": "some"}, "'some' is neither"),
        ({"max_lost": "1.5%"}, "neither"),
        ({"min_members": 0}, "greater than or equal to 1"),
        ({"bake_time": "31m"}, "bake_time is longer than drain_timeout"),
        ({"lost_after": 0}, "greater than 0"),
        ({"drain_idle": "soon"}, "is no duration"),
    ],
)
def test_knobs_that_cannot_be_meant_are_refused(knobs: dict[str, object], said: str) -> None:
    """In words for who wrote them."""
    with pytest.raises(ValidationError, match=said.replace("(", r"\(")):
        Strategy.model_validate(knobs)


@pytest.mark.parametrize(
    ("steps", "whole", "has_canary"),
    [
        (("100%",), ("100%",), False),
        (("1",), ("1", "100%"), True),
        (("1", "10%", "50%"), ("1", "10%", "50%", "100%"), True),
        (("1", "100%"), ("1", "100%"), True),
    ],
)
def test_the_last_step_is_always_every_host(steps: tuple[str, ...], whole: tuple[str, ...], has_canary: bool) -> None:
    """And of several the first is the canary."""
    strategy = Strategy(steps=steps)
    assert (strategy.all_steps, strategy.has_canary) == (whole, has_canary)


def test_the_bound_of_a_rollout_counts_each_wait_it_may_have() -> None:
    """L1: free slot, staging, each step, each promote, drain, and the end."""
    assert Strategy().longest_s() == 1870 + 600 + 600 + 1800 + 1200
    assert Strategy(waits_for_promote=True).longest_s() == Strategy().longest_s() + 3600
    assert Strategy(steps=("1", "50%")).longest_s() == Strategy().longest_s() + 3600 + 2 * 600


def test_unknown_knobs_are_ignored() -> None:
    """A record may be of a later build of the same version."""
    assert Strategy.model_validate({"speed": 9}) == Strategy()


def test_the_page_on_rollouts_has_every_knob_with_its_default() -> None:
    """And no other."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "rollouts.md").read_text(encoding="utf-8")
    knobs = dict(re.findall(r"^\| `(\w+)` \| ([^|,]+?)(?:, rounded up)? \|", text, re.MULTILINE))
    defaults = {name: field.default for name, field in Strategy.model_fields.items()}
    words = {"steps": "100%", "waits_for_promote": "no"}
    for name, default in defaults.items():
        shown = words.get(name) or (format_duration(default) if isinstance(default, float) else str(default))
        assert knobs.pop(name) in {shown, f"{default:.0f}s" if isinstance(default, float) else shown}
    assert knobs == {}

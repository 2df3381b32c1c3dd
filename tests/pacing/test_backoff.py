"""The pauses between tries."""

import random

from agent.pacing.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    """The longest is never passed, and stays."""
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_after_a_success_it_begins_anew() -> None:
    """However long the pause had become."""
    backoff = Backoff(1.0, 30.0, factor=3.0)
    assert [backoff.next() for _ in range(3)] == [1.0, 3.0, 9.0]
    backoff.reset()
    assert backoff.next() == 1.0


def test_jitter_spreads_the_pauses_of_many_and_not_their_growth() -> None:
    """From half to one and a half times the length; the next length is as without."""
    rng = random.Random(1)
    first, second = zip(*(pauses(Backoff(2.0, 60.0, jitter=0.5, rng=rng)) for _ in range(400)), strict=True)
    for pauses_s, length_s in ((first, 2.0), (second, 4.0)):
        assert 0.5 * length_s <= min(pauses_s) < 0.6 * length_s
        assert 1.4 * length_s < max(pauses_s) <= 1.5 * length_s


def pauses(backoff: Backoff) -> tuple[float, float]:
    return backoff.next(), backoff.next()

"""Tests on one simulated host."""

from collections.abc import Iterator

import pytest

from tests.sim.host.world import close_all


@pytest.fixture(autouse=True)
def _worlds_end() -> Iterator[None]:
    """End the tasks of the last world."""
    yield
    close_all()

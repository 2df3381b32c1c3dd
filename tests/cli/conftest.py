"""For each test a fleet for the command line, and an operator who has a shell there."""

from collections.abc import Iterator

import pytest

from tests.cli.fake_fleet import FakeFleet
from tests.cli.operator import Operator, open_fake_fleet


@pytest.fixture(name="fake_fleet")
def _fake_fleet(request: pytest.FixtureRequest) -> Iterator[FakeFleet]:
    """Three hosts that serve a; over the fake Consul where the test does not say otherwise."""
    call = getattr(request.node, "callspec", None)
    yield from open_fake_fleet(call.params.get("kind", "fake") if call else "fake")


@pytest.fixture(name="op")
def _op(fake_fleet: FakeFleet) -> Operator:
    """Somebody with a shell there."""
    return Operator(fake_fleet)

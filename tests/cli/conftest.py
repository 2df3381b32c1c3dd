"""For each test a fleet for the command line, and an operator who has a shell there."""

from collections.abc import Iterator

import pytest

from tests.cli.fake_fleet import Town
from tests.cli.operator import Operator, open_shop


@pytest.fixture(name="shop")
def _shop(request: pytest.FixtureRequest) -> Iterator[Town]:
    """Three hosts that serve a; over the fake Consul where the test does not say otherwise."""
    call = getattr(request.node, "callspec", None)
    yield from open_shop(call.params.get("kind", "fake") if call else "fake")


@pytest.fixture(name="op")
def _op(shop: Town) -> Operator:
    """Somebody with a shell there."""
    return Operator(shop)

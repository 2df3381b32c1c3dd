"""For each test a host over fakes, or a town for the command line."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.contract.fakes.consul import running
from tests.runtime.cli_operator import Operator, open_shop
from tests.runtime.cli_town import Town
from tests.runtime.host_bench import World, world


@pytest_asyncio.fixture(name="at")
async def _at(tmp_path: Path) -> AsyncIterator[World]:
    """A world of the test's own, with nothing recorded and nothing running."""
    async with running() as consul, world(tmp_path, consul) as made:
        yield made


@pytest.fixture(name="shop")
def _shop(request: pytest.FixtureRequest) -> Iterator[Town]:
    """Three hosts that serve a; over the fake Consul where the test does not say otherwise."""
    call = getattr(request.node, "callspec", None)
    yield from open_shop(call.params.get("kind", "fake") if call else "fake")


@pytest.fixture(name="op")
def _op(shop: Town) -> Operator:
    """Somebody with a shell there."""
    return Operator(shop)

"""A host over fakes for each test that asks for `at`; a suite asks for it by ``pytest_plugins``."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.adapters.fakes.consul import running
from tests.runtime.host.rig import World, world


@pytest_asyncio.fixture(name="at")
async def _at(tmp_path: Path) -> AsyncIterator[World]:
    """A world of the test's own, with nothing recorded and nothing running."""
    async with running() as consul, world(tmp_path, consul) as made:
        yield made

"""The virtual loop itself: shipped asyncio code runs on it unchanged, and processes stall and die as a whole."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.sim.virtual_time import Process, SimClock, StuckError, VirtualLoop


@pytest.fixture(name="loop")
def _loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.end()


def test_an_hour_passes_at_once_and_exactly() -> None:
    """Sleeps, deadlines and task groups of asyncio itself go by the loop's time."""
    seen: list[float] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for seconds in (3600.0, 0.5, 60.0):
                group.create_task(noted(seconds))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.Event().wait()
        seen.append(loop.time())

    async def noted(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append(asyncio.get_running_loop().time())

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())
    assert seen == [0.5, 60.0, 3600.0, 3610.0]


def test_what_is_due_at_the_same_time_runs_in_the_order_it_was_made(loop: VirtualLoop) -> None:
    """However many there are: a heap alone would not say."""
    order: list[int] = []
    for number in range(50):
        loop.call_at(7.0, order.append, number)
    loop.run_to(7.0)
    assert order == list(range(50))


def test_a_wait_that_nothing_can_end_is_said() -> None:
    """Instead of a test that hangs."""
    with pytest.raises(StuckError), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(asyncio.Event().wait())


def test_a_thread_is_a_call(loop: VirtualLoop) -> None:
    """Its result and its error come as from a thread."""
    found: list[object] = []

    async def scenario() -> None:
        found.append(await asyncio.to_thread(sum, (1, 2)))
        try:
            await asyncio.to_thread(int, "x")
        except ValueError as exc:
            found.append(type(exc))

    Process(loop).spawn(scenario())
    loop.run_to(0.0)
    assert found == [3, ValueError]


async def _ticks(seen: list[float]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_tick(seen))


async def _tick(seen: list[float]) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            await asyncio.sleep(1.0)
            seen.append(loop.time())
    finally:
        seen.append(-1.0)


def test_a_stalled_process_runs_nothing_and_goes_on_where_it_was(loop: VirtualLoop) -> None:
    """Also in the tasks that its tasks began; another process does not notice."""
    stalled, other = list[float](), list[float]()
    process = Process(loop)
    process.spawn(_ticks(stalled))
    Process(loop).spawn(_ticks(other))
    loop.run_to(2.5)
    process.stall(4.0)
    loop.run_to(8.0)
    assert stalled == [1.0, 2.0, 6.5, 7.5]
    assert other == [float(second) for second in range(1, 9)]


def test_a_killed_process_runs_not_even_its_finally(loop: VirtualLoop) -> None:
    """As by SIGKILL; what it left is cleared away when the loop ends."""
    seen: list[float] = []
    process = Process(loop)
    process.spawn(_ticks(seen))
    loop.run_to(2.5)
    process.kill()
    loop.run_to(100.0)
    assert seen == [1.0, 2.0]
    loop.end()
    assert seen == [1.0, 2.0, -1.0]


def test_a_process_that_kills_itself_goes_no_step_further(loop: VirtualLoop) -> None:
    """It waits for what never comes."""
    seen: list[str] = []
    process = Process(loop)

    async def scenario() -> None:
        seen.append("before")
        process.kill()
        await asyncio.sleep(0)
        seen.append("after")

    process.spawn(scenario())
    loop.run_to(10.0)
    assert seen == ["before"]


def test_an_event_set_by_the_world_wakes_a_process_only_once_it_runs_again(loop: VirtualLoop) -> None:
    """A wake-up belongs to who waits, not to who wakes."""
    event, seen = asyncio.Event(), list[float]()
    process = Process(loop)

    async def scenario() -> None:
        await event.wait()
        seen.append(loop.time())

    process.spawn(scenario())
    loop.at(1.0, lambda: process.stall(5.0))
    loop.at(2.0, event.set)
    loop.run_to(10.0)
    assert seen == [6.0]


def test_a_clock_tells_the_loops_time_and_its_own_wall_time(loop: VirtualLoop) -> None:
    """Two hosts differ in the second alone."""
    right, wrong = SimClock(loop), SimClock(loop, clock_skew_s=-3.0)
    loop.run_to(5.0)
    assert (right.now(), wrong.now()) == (5.0, 5.0)
    assert right.wall() - wrong.wall() == 3.0

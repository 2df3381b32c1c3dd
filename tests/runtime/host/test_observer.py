"""Looks at the host: when containers are listed anew, what wakes the loop, and how a wake is never lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from structlog.testing import capture_logs

from agent.adapters.docker.inspect import Listing
from agent.adapters.host.probe import Prober
from agent.core.host.actions import Pull
from agent.core.host.observed import Unavailable, Worker
from agent.core.model.errors import HaproxyUnavailableError
from agent.core.model.names import ContainerId, Digest, ImageReference
from agent.pacing.clock import SystemClock
from agent.runtime.host.event_sources import follow_docker, follow_haproxy
from agent.runtime.host.jobs import Jobs
from agent.runtime.host.observer import Observer
from agent.runtime.wake import WakeSignal
from cluster.servers.process import eventually
from tests.adapters.fakes.docker import FakeContainer, FakeDaemon, FakeDocker
from tests.adapters.fakes.haproxy import FakeHaproxy
from tests.runtime.host.rig import NODE, cancelled_in_the_end, make_app

IMAGE = ImageReference("registry.local/shop:a")


class Counting(FakeDocker):
    """Counts its listings, and may hold one back."""

    listings = 0
    held: asyncio.Event | None = None

    async def containers(self) -> Listing:
        self.listings += 1
        listing = await FakeDocker.containers(self)
        if self.held is not None:
            await self.held.wait()
        return listing


class Bench:
    """An observer over fakes."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        app = make_app()
        self.group = group
        self.daemon = FakeDaemon()
        self.docker = Counting(self.daemon, app, NODE)
        self.proxy = FakeHaproxy()
        self.wake = WakeSignal()
        self.jobs = Jobs(app, self.docker, group, self.wake.call)
        self.observer = Observer(self.docker, self.proxy, Prober(group, lambda: None), self.jobs)

    async def woken(self) -> frozenset[str]:
        reasons = await self.wake.wait(5)
        assert reasons, "nobody woke the loop"
        return reasons

    async def listens(self) -> None:
        async def met() -> bool:
            return bool(self.daemon.listeners)

        assert await eventually(met, deadline_s=5)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    async with cancelled_in_the_end() as group:
        yield Bench(group)


def ours(at: Bench) -> FakeContainer:
    """Return a container with our labels, for an event of its own."""
    labels = {"tidegate.app": "shop", "tidegate.node": NODE}
    return FakeContainer(ContainerId("f" * 64), "x", labels, None, {}, "n", None)  # type: ignore[arg-type]


async def test_containers_are_listed_once_while_nothing_happens() -> None:
    """A look costs the Docker daemon nothing."""
    async with bench() as at:
        for _ in range(5):
            await at.observer.observe()
        assert at.docker.listings == 1


async def test_events_jobs_and_previews_list_them_anew() -> None:
    """Whatever may have changed them."""
    async with bench() as at:
        await at.observer.observe()
        at.observer.containers_changed()
        await at.observer.observe()
        await at.observer.observe(fresh=True)
        assert at.docker.listings == 3
        at.daemon.registry[IMAGE] = Digest("sha256:" + "a" * 64)
        at.jobs.begin(Pull(IMAGE))
        await at.observer.observe()
        await at.woken()
        observed = await at.observer.observe()
        assert at.docker.listings == 5
        assert len(observed.results) == 1
        await at.observer.observe()
        assert at.docker.listings == 5


async def test_a_change_during_a_listing_is_not_lost() -> None:
    """The list that was under way may be of before the change: the next look lists anew."""
    async with bench() as at:
        at.docker.held = asyncio.Event()
        look = asyncio.create_task(at.observer.observe())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert at.docker.listings == 1
        at.observer.containers_changed()
        at.docker.held.set()
        await look
        await at.observer.observe()
        assert at.docker.listings == 2


async def test_a_job_that_ends_during_a_listing_is_under_way_in_that_look() -> None:
    """The list may be of before its end: without the job, a container that was just started would look dead."""
    async with bench() as at:
        at.docker.held = asyncio.Event()
        look = asyncio.create_task(at.observer.observe())
        at.jobs.begin(Pull(IMAGE))  # it fails at once, but not before the look has begun
        await at.woken()
        at.docker.held.set()
        observed = await look
        assert [job.key for job in observed.jobs] == [IMAGE]
        assert observed.results == ()
        observed = await at.observer.observe()
        assert observed.jobs == ()
        assert len(observed.results) == 1


async def test_what_is_away_is_unknown_not_empty() -> None:
    """S12: with the reason."""
    async with bench() as at:
        at.daemon.away = at.proxy.away = True
        observed = await at.observer.observe()
        assert observed.containers == Unavailable("Docker: cannot connect")
        assert isinstance(observed.proxy, Unavailable)
        at.daemon.away = at.proxy.away = False
        observed = await at.observer.observe()
        assert observed.containers == ()


async def test_a_fresh_look_leaves_results_to_the_next_one() -> None:
    """A dry run must not swallow what the loop has to learn."""
    async with bench() as at:
        at.jobs.begin(Pull(IMAGE))
        await at.woken()
        assert (await at.observer.observe(fresh=True)).results == ()
        assert len((await at.observer.observe()).results) == 1


async def test_docker_events_wake_the_loop() -> None:
    """Each of our containers, and the connection itself."""
    async with bench() as at:
        at.group.create_task(follow_docker(at.docker, at.observer, at.wake, SystemClock()))
        assert await at.woken() == {"docker connected"}
        at.daemon.publish("die", ours(at))
        assert await at.woken() == {"docker die"}


async def test_a_lost_docker_is_noticed_told_once_and_noticed_when_it_returns() -> None:
    """Every look lists anew meanwhile."""
    with capture_logs() as logs:
        async with bench() as at:
            at.daemon.away = True
            at.group.create_task(follow_docker(at.docker, at.observer, at.wake, SystemClock(), reconnect_s=0.05))
            assert await at.woken() == {"docker lost"}
            assert await at.woken() == {"docker lost"}
            at.daemon.away = False
            assert await at.woken() == {"docker connected"}
    assert [line["event"] for line in logs] == ["docker.lost", "docker.returned"]


async def test_another_haproxy_worker_wakes_the_loop() -> None:
    """A restart is seen within a second; so is a HAProxy that goes away, or was never there."""
    answers: list[Worker | None] = [None, Worker(1, 1), Worker(1, 1), Worker(2, 2), None]

    async def ask() -> Worker:
        worker = answers.pop(0) if answers else None
        if worker is None:
            raise HaproxyUnavailableError("away")
        return worker

    with capture_logs() as logs:
        async with bench() as at:
            at.group.create_task(follow_haproxy(ask, at.wake, SystemClock(), poll_s=0.001))
            async with asyncio.timeout(5):
                while answers:
                    assert await at.woken() == {"haproxy"}
    assert [line["event"] for line in logs][:4] == [
        "haproxy.lost",
        "haproxy.started",
        "haproxy.started",
        "haproxy.lost",
    ]


async def test_many_calls_are_one_wake_and_none_is_lost() -> None:
    """Reasons are gathered; a call before the wait ends it at once, a call after it the next."""
    wake = WakeSignal()
    wake.call("a")
    wake.call("b")
    assert await wake.wait(5) == {"a", "b"}
    assert await wake.wait(0) == frozenset()
    assert await wake.wait(-1) == frozenset()
    wake.call("c")
    assert await wake.wait(0) == {"c"}

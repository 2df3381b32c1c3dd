"""Pulls, starts and stops: one per slot, results that are told once, failures that carry their verdict."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from agent.adapters.docker.container_config import RunRequest
from agent.adapters.docker.pull import PullProgress
from agent.core.host.actions import (
    Action,
    CancelPull,
    Prune,
    Pull,
    Run,
    SaveState,
    SetReadinessGate,
    SetState,
    ShutdownSessions,
    Start,
    Stop,
)
from agent.core.host.desired import DesiredRelease
from agent.core.host.observed import JobKind, JobResult
from agent.core.model.errors import DockerUnavailableError, HaproxyUnavailableError
from agent.core.model.names import ContainerId, Digest, ImageReference, SlotName
from agent.core.model.release import Release
from agent.core.model.spec import RunSpec
from agent.core.model.states import AdminState, ReadinessGate
from agent.runtime.host.executor import Executor
from agent.runtime.host.jobs import Jobs
from cluster.servers.process import eventually
from tests.adapters.fakes.docker import FakeDaemon, FakeDocker, Program
from tests.adapters.fakes.haproxy import FakeHaproxy
from tests.runtime.host.rig import NODE, cancelled_in_the_end, make_app

IMAGE = ImageReference("registry.local/shop:a")
DIGEST = Digest("sha256:" + "a" * 64)


class Bench:
    """Jobs over a fake daemon; `result` waits for the next one."""

    def __init__(self, group: asyncio.TaskGroup, daemon: FakeDaemon, docker: FakeDocker | None = None) -> None:
        self.app = make_app()
        self.daemon = daemon
        self.docker = docker or FakeDocker(daemon, self.app, NODE)
        self._woken = asyncio.Event()
        self.jobs = Jobs(self.app, self.docker, group, lambda _: self._woken.set())

    async def result(self) -> JobResult:
        async with asyncio.timeout(5):
            await self._woken.wait()
        self._woken.clear()
        (result,) = self.jobs.take_ended().results
        assert self.jobs.take_ended().results == ()
        return result

    async def idle(self) -> None:
        async def met() -> bool:
            return not self.jobs.under_way()

        assert await eventually(met, deadline_s=5)

    async def container(self, slot: SlotName = SlotName.BLUE, command: tuple[str, ...] | None = None) -> ContainerId:
        await self.docker.ensure_network()
        self.daemon.local[IMAGE] = DIGEST
        release = Release(IMAGE, DIGEST, RunSpec(command=command), 0)
        return await self.docker.run(RunRequest(slot, release, 1))


@asynccontextmanager
async def bench(*programs: Program) -> AsyncIterator[Bench]:
    async with cancelled_in_the_end() as group:
        daemon = FakeDaemon(programs)
        daemon.registry[IMAGE] = DIGEST
        yield Bench(group, daemon)


def run_of(slot: SlotName = SlotName.BLUE) -> Run:
    return Run(slot, DesiredRelease(IMAGE, "wish"), DIGEST, 1)


async def test_a_pull_says_which_digest_the_reference_means() -> None:
    """The digest comes with the result, once."""
    async with bench() as at:
        at.jobs.begin(Pull(IMAGE))
        (job,) = at.jobs.under_way()
        assert (job.kind, job.key) == (JobKind.PULL, IMAGE)
        await at.idle()
        ended = at.jobs.take_ended()
        assert (ended.images, [result.error for result in ended.results]) == ({IMAGE: DIGEST}, [""])
        assert at.jobs.take_ended().images == {}


async def test_a_slot_has_one_job_and_a_pull_is_made_once() -> None:
    """What is asked for again, or beside a job on the same slot, is not begun."""
    async with bench(Program(("stubborn",), ignores_term=True)) as at:
        at.daemon.pulls_stall = True
        id_ = await at.container(command=("stubborn",))
        at.jobs.begin(Stop(SlotName.BLUE, id_, 30, "test"))
        for action in (Stop(SlotName.BLUE, id_, 30, "test"), Start(SlotName.BLUE, id_, "test"), run_of()):
            at.jobs.begin(action)
        at.jobs.begin(Pull(ImageReference("registry.local/other:1")))
        at.jobs.begin(Pull(ImageReference("registry.local/other:1")))
        assert [job.kind for job in at.jobs.under_way()] == [JobKind.STOP, JobKind.PULL]


async def test_a_pull_nobody_wants_is_given_up_without_a_result() -> None:
    """It leaves nothing, and can be begun anew; giving up what is not under way does nothing."""
    async with bench() as at:
        at.daemon.pulls_stall = True
        at.jobs.begin(CancelPull(IMAGE))
        at.jobs.begin(Pull(IMAGE))
        await asyncio.sleep(0.01)
        at.jobs.begin(CancelPull(IMAGE))
        at.jobs.begin(CancelPull(IMAGE))
        await at.idle()
        assert at.jobs.take_ended().results == ()
        at.daemon.pulls_stall = False
        at.jobs.begin(Pull(IMAGE))
        assert (await at.result()).error == ""


@pytest.mark.parametrize(("away", "transient"), [(True, True), (False, False)])
async def test_a_failed_job_says_whether_it_may_pass(away: bool, transient: bool) -> None:
    """A registry that is away may come back; an unknown image stays unknown."""
    async with bench() as at:
        at.daemon.registry_away = away
        at.daemon.registry.clear()
        at.jobs.begin(Pull(IMAGE))
        result = await at.result()
        assert (result.transient, result.key, bool(result.error)) == (transient, IMAGE, True)


class Broken(FakeDocker):
    """Has a defect."""

    async def start(self, id_: ContainerId) -> None:
        raise ZeroDivisionError(id_)


async def test_a_defect_in_a_job_is_a_failure_that_may_pass() -> None:
    """The agent lives on, and the attempt is made again."""
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            daemon = FakeDaemon()
            at = Bench(group, daemon, Broken(daemon, make_app(), NODE))
            at.jobs.begin(Start(SlotName.BLUE, ContainerId("f" * 64), "test"))
            result = await at.result()
    assert [line["event"] for line in logs] == ["job.crashed"]
    assert (result.error, result.transient) == ("internal error: ZeroDivisionError", True)


async def test_an_image_that_was_removed_since_is_pulled_by_its_digest() -> None:
    """Not by its tag: that may mean something else by now."""
    pulled: list[str] = []

    class Noting(FakeDocker):
        async def pull(self, reference: ImageReference, progress: PullProgress, stall_s: float) -> Digest:
            pulled.append(reference)
            return await FakeDocker.pull(self, reference, progress, stall_s)

    async with asyncio.TaskGroup() as group:
        daemon, app = FakeDaemon(), make_app()
        daemon.registry[IMAGE] = Digest("sha256:" + "f" * 64)
        daemon.registry[f"registry.local/shop@{DIGEST}"] = DIGEST
        at = Bench(group, daemon, Noting(daemon, app, NODE))
        at.jobs.begin(run_of())
        result = await at.result()
    assert (result.error, result.release_key) == ("", "wish")
    assert pulled == [f"registry.local/shop@{DIGEST}"]


async def test_only_our_own_names_are_taken_off_an_old_image() -> None:
    """An image of which another tool's name is left is not ours any more, also when ours went before."""
    async with bench() as at:
        at.daemon.local |= {IMAGE: DIGEST, ImageReference("tool/shop:9"): DIGEST}
        for _ in range(2):
            at.jobs.begin(Prune(IMAGE, DIGEST))
            assert (await at.result()).error == ""
            assert at.daemon.local == {"tool/shop:9": DIGEST}


async def test_a_stop_after_a_failure_brings_the_last_log_lines() -> None:
    """They belong to the wish that failed; a stop without failure reads none."""
    async with bench(Program(("talk",), lines=("bad settings",))) as at:
        id_ = await at.container(command=("talk",))
        at.jobs.begin(Stop(SlotName.BLUE, id_, 0, "test", failed_key="wish"))
        result = await at.result()
        assert (result.release_key, result.lines) == ("wish", ("bad settings",))
        assert at.daemon.containers == {}


async def test_the_end_of_the_process_ends_jobs_without_a_result() -> None:
    """A cancellation from outside is passed on, not taken for a pull nobody wants."""
    with capture_logs() as logs:
        async with bench() as at:
            at.daemon.pulls_stall = True
            at.jobs.begin(Pull(IMAGE))
            await asyncio.sleep(0.01)
        async with bench() as unbegun:
            unbegun.jobs.begin(Pull(IMAGE))
    for each in (at, unbegun):
        assert (each.jobs.under_way(), each.jobs.take_ended().results) == ((), ())
    assert logs == []


async def test_a_pull_that_is_given_up_before_its_first_step_can_be_made_again() -> None:
    """It is under way no more, though it never came to its own end."""
    async with bench() as at:
        at.jobs.begin(Pull(IMAGE))
        at.jobs.begin(CancelPull(IMAGE))
        await at.idle()
        at.jobs.begin(Pull(IMAGE))
        assert (await at.result()).error == ""


async def test_actions_are_done_in_order_up_to_the_first_that_fails() -> None:
    """What comes after it was not begun."""
    done: list[Action] = []

    async def note(action: Action | None) -> None:
        if action is not None:
            done.append(action)
        if isinstance(action, SaveState):
            raise HaproxyUnavailableError("away")

    plan = (
        SetReadinessGate(ReadinessGate.OPEN),
        SetState(SlotName.BLUE, AdminState.DRAIN, "test"),
        ShutdownSessions(SlotName.GREEN, "test"),
        SaveState(),
        Pull(IMAGE),
    )
    async with bench() as at:
        proxy = FakeHaproxy()
        with pytest.raises(HaproxyUnavailableError):
            await Executor(proxy, at.jobs, note).apply(plan)
        assert done == list(plan[:4])
        assert (proxy.gate, proxy.slots[SlotName.BLUE].admin) == (ReadinessGate.OPEN, AdminState.DRAIN)
        assert (proxy.sessions_closed, proxy.saved, at.jobs.under_way()) == ([SlotName.GREEN], None, ())


async def test_docker_going_away_is_a_failure_that_may_pass() -> None:
    """An adapter's transient error keeps its verdict."""
    async with bench() as at:
        at.daemon.away = True
        at.jobs.begin(run_of())
        result = await at.result()
        assert (result.error, result.transient) == (str(DockerUnavailableError("Docker: cannot connect")), True)

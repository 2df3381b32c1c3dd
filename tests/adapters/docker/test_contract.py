"""One suite for the Docker adapter on the real daemon and for the fake that stands in for it elsewhere."""

from pathlib import Path
from time import monotonic

import pytest

from agent.adapters.docker.container_config import RunRequest
from agent.core.host.observed import ContainerState
from agent.core.model.errors import AddressTakenError, DockerRefusedError, PermanentError
from agent.core.model.names import NodeName, SlotName, parse_digest, parse_reference
from agent.core.model.release import Release
from agent.core.model.spec import RunSpec
from cluster.servers.process import eventually
from tests.adapters.docker.rig import (
    CODE,
    CRASH,
    MISSING,
    POLITE,
    STUBBORN,
    TALKATIVE,
    AnyDocker,
    Bench,
    only,
    release,
    request,
)
from tests.adapters.fakes.docker import Program

pytest_plugins = ["tests.adapters.docker.fixtures"]


async def state_is(docker: AnyDocker, state: ContainerState) -> bool:
    async def reached() -> bool:
        return (await only(docker)).state is state

    return await eventually(reached, deadline_s=10)


async def prints(docker: AnyDocker, bench: Bench, program: Program, line: str) -> None:
    """Run *program* and wait until it printed *line*: its signal handlers are set then."""
    id_ = await docker.run(request(bench, program))

    async def printed() -> bool:
        return line in await docker.tail(id_)

    assert await eventually(printed, deadline_s=10)


async def test_nothing_is_listed_where_nothing_runs(bench: Bench) -> None:
    """An app without containers has an empty listing, also before its network exists."""
    listing = await bench.adapter().containers()
    assert (listing.containers, listing.strays) == ((), ())


async def test_an_image_is_found_without_a_registry(bench: Bench) -> None:
    """What a reference means locally is known without a pull; an unknown one is None."""
    adapter = bench.adapter()
    assert await adapter.local_digest(bench.reference) == bench.digest
    assert await adapter.local_digest(parse_reference("tidegate-no-such-image:1")) is None


async def test_a_container_runs_on_its_slots_address(bench: Bench, adapter: AnyDocker) -> None:
    """The new occupant of a slot has the slot's fixed address."""
    id_ = await adapter.run(request(bench, POLITE))
    assert await bench.address(id_) == bench.app.address(SlotName.BLUE)


async def test_a_container_is_adopted_by_its_labels(bench: Bench, adapter: AnyDocker) -> None:
    """A new adapter, as after a restart of the agent, reads back everything that was asked for."""
    asked = RunRequest(SlotName.GREEN, release(bench, RunSpec(command=POLITE.command), generation=7), 3)
    id_ = await adapter.run(asked)
    found = await only(bench.adapter())
    wanted = asked.release
    assert (found.id, found.slot, found.occupancy, found.generation) == (id_, SlotName.GREEN, 3, 7)
    assert (found.reference, found.digest, found.release, found.pin) == (
        (wanted.reference, wanted.digest, wanted.id, wanted.pin)
    )
    assert found.is_running
    assert (found.exit_code, found.error) == (None, "")
    assert found.started_at


async def test_other_hosts_and_apps_do_not_see_it(bench: Bench, adapter: AnyDocker) -> None:
    """Two agents on one daemon, or two apps of one agent, leave each other alone."""
    await adapter.run(request(bench, POLITE))
    other_app = bench.app.model_copy(update={"name": "other-app"})
    for other in (bench.adapter(node=NodeName("web-2")), bench.adapter(other_app)):
        listing = await other.containers()
        assert (listing.containers, listing.strays) == ((), ())


async def test_a_stray_does_not_break_the_listing(bench: Bench, adapter: AnyDocker) -> None:
    """A container of ours with senseless labels is listed apart, by its id only."""
    good = await adapter.run(request(bench, POLITE))
    stray = await bench.make_stray()
    listing = await adapter.containers()
    assert [each.id for each in listing.containers] == [good]
    assert listing.strays == (stray,)


async def test_stop_lets_a_polite_process_end(bench: Bench, adapter: AnyDocker) -> None:
    """A process that obeys its signal ends by itself, long before the grace is over."""
    await prints(adapter, bench, POLITE, "ready")
    started = monotonic()
    await adapter.stop((await only(adapter)).id, 30)
    assert monotonic() - started < 10
    found = await only(adapter)
    assert (found.state, found.exit_code) == (ContainerState.EXITED, 0)


async def test_stop_kills_after_the_grace(bench: Bench, adapter: AnyDocker) -> None:
    """A process that ignores its signal is killed when the grace is over, not before."""
    await prints(adapter, bench, STUBBORN, "ready")
    started = monotonic()
    await adapter.stop((await only(adapter)).id, 1)
    assert 0.9 < monotonic() - started < 10
    assert (await only(adapter)).exit_code == 137


async def test_stopping_twice_is_fine(bench: Bench, adapter: AnyDocker) -> None:
    """Stopping what is stopped, or gone, does nothing."""
    id_ = await adapter.run(request(bench, CRASH))
    assert await state_is(adapter, ContainerState.EXITED)
    await adapter.stop(id_, 1)
    await adapter.remove(id_)
    await adapter.stop(id_, 1)


async def test_removing_twice_is_fine(bench: Bench, adapter: AnyDocker) -> None:
    """A running container is removed; removing it again does nothing."""
    id_ = await adapter.run(request(bench, POLITE))
    await adapter.remove(id_)
    await adapter.remove(id_)
    assert (await adapter.containers()).containers == ()


async def test_a_container_that_exits_at_once_is_listed_with_its_code(bench: Bench, adapter: AnyDocker) -> None:
    """A crash is no error of run; it shows in the listing, with the last log lines at hand."""
    id_ = await adapter.run(request(bench, CRASH))
    assert await state_is(adapter, ContainerState.EXITED)
    assert (await only(adapter)).exit_code == 3
    assert await adapter.tail(id_) == ("one", "two")


async def test_tail_is_bounded(bench: Bench, adapter: AnyDocker) -> None:
    """The newest lines are kept, within the lines and bytes asked for."""
    id_ = await adapter.run(request(bench, CRASH))
    assert await state_is(adapter, ContainerState.EXITED)
    assert await adapter.tail(id_, lines=1) == ("two",)
    assert await adapter.tail(id_, max_bytes=5) == ("on", "two")
    await adapter.remove(id_)
    assert await adapter.tail(id_) == ()


async def test_tail_is_safe_to_show(bench: Bench, adapter: AnyDocker) -> None:
    """Control characters are taken out of log lines, and so are the values of the environment."""
    id_ = await adapter.run(request(bench, TALKATIVE, env={"KEY": "hunter2"}))
    assert await state_is(adapter, ContainerState.EXITED)
    assert await adapter.tail(id_) == ("red alert", "key is ***")


async def test_start_again_keeps_address_and_tenancy(bench: Bench, adapter: AnyDocker) -> None:
    """A restarted container is the same occupant at the same address, with another start time."""
    id_ = await adapter.run(request(bench, POLITE, occupancy=4))
    before = await only(adapter)
    await adapter.stop(id_, 0)
    await adapter.start(id_)
    after = await only(adapter)
    assert (after.id, after.occupancy, after.is_running) == (id_, 4, True)
    assert after.started_at != before.started_at
    assert await bench.address(id_) == bench.app.address(SlotName.BLUE)


async def test_starting_a_running_container_does_nothing(bench: Bench, adapter: AnyDocker) -> None:
    """Start is idempotent: a running container is not restarted."""
    id_ = await adapter.run(request(bench, POLITE))
    before = await only(adapter)
    await adapter.start(id_)
    assert await only(adapter) == before


async def test_env_files_are_read_on_this_host(bench: Bench, adapter: AnyDocker, tmp_path: Path) -> None:
    """A variable in a file reaches the process."""
    path = tmp_path / "app.env"
    path.write_text("# of the host\nCODE=11\n")
    await adapter.run(request(bench, CODE, env_files=(str(path),)))
    assert await state_is(adapter, ContainerState.EXITED)
    assert (await only(adapter)).exit_code == 11


async def test_the_spec_wins_over_env_files(bench: Bench, adapter: AnyDocker, tmp_path: Path) -> None:
    """The spec's own variable replaces the file's."""
    path = tmp_path / "app.env"
    path.write_text("CODE=11\n")
    await adapter.run(request(bench, CODE, env_files=(str(path),), env={"CODE": "12"}))
    assert await state_is(adapter, ContainerState.EXITED)
    assert (await only(adapter)).exit_code == 12


async def test_a_missing_env_file_is_named(bench: Bench, adapter: AnyDocker) -> None:
    """Nothing is created where an env file is missing, and the error says which."""
    with pytest.raises(PermanentError, match=r"env file '/nonexistent/app\.env'"):
        await adapter.run(request(bench, POLITE, env_files=("/nonexistent/app.env",)))
    assert (await adapter.containers()).containers == ()


async def test_an_unknown_executable_is_refused_and_leaves_nothing(bench: Bench, adapter: AnyDocker) -> None:
    """What cannot be started is removed again; the error has the daemon's words and no secret."""
    with pytest.raises(DockerRefusedError, match="executable file not found") as caught:
        await adapter.run(request(bench, MISSING, env={"KEY": "no-such-program"}))
    assert "no-such-program" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert (await adapter.containers()).containers == ()


async def test_a_taken_address_is_refused(bench: Bench, adapter: AnyDocker) -> None:
    """A second occupant of a slot cannot start while the first one runs, and leaves nothing."""
    first = await adapter.run(request(bench, POLITE))
    with pytest.raises(AddressTakenError, match="of slot blue is in use: another container"):
        await adapter.run(request(bench, POLITE, occupancy=2))
    assert (await only(adapter)).id == first


async def test_the_same_tenancy_runs_once(bench: Bench, adapter: AnyDocker) -> None:
    """Running the same request twice is refused: the name is taken."""
    await adapter.run(request(bench, POLITE))
    with pytest.raises(DockerRefusedError, match="in use"):
        await adapter.run(request(bench, POLITE))


async def test_an_absent_image_is_refused(bench: Bench, adapter: AnyDocker) -> None:
    """Run never pulls: an image that is not here is an error."""
    absent = Release(bench.reference, parse_digest("sha256:" + "0" * 64), RunSpec(), 0)
    with pytest.raises(DockerRefusedError, match="not on this host"):
        await adapter.run(RunRequest(SlotName.BLUE, absent, 1))


async def test_starting_what_is_gone_is_refused(bench: Bench, adapter: AnyDocker) -> None:
    """A removed container cannot be started."""
    id_ = await adapter.run(request(bench, POLITE))
    await adapter.remove(id_)
    with pytest.raises(DockerRefusedError, match="No such container"):
        await adapter.start(id_)

"""Each field of the run spec, as the real daemon shows it of the container."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from agent.core.host.observed import ContainerState
from agent.core.model.errors import DockerRefusedError
from agent.core.model.names import parse_digest, parse_reference
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.process import eventually
from tests.adapters.docker.rig import POLITE, RealBench, RealImage, build, make_app, only, request, shell
from tests.adapters.fakes.docker import Program


@pytest_asyncio.fixture(name="bench")
async def _bench(docker: DockerDaemon) -> AsyncIterator[RealBench]:
    """A bench on the real daemon, its network there."""
    name = f"spec-{uuid4().hex[:8]}"
    digest = parse_digest(await build(docker, f"{name}:1"))
    image = RealImage(docker, parse_reference(f"{name}:1"), digest)
    bench = RealBench(image, make_app(name, await docker.free_subnet()))
    try:
        await bench.adapter().ensure_network()
        yield bench
    finally:
        await bench.clean()
        await docker.cli("rmi", f"{name}:1")


async def shown(bench: RealBench, program: Program = POLITE, **spec: Any) -> dict[str, Any]:
    return await bench.inspect(await bench.adapter().run(request(bench, program, **spec)))


@pytest.mark.real
async def test_limits_and_rights_are_applied(bench: RealBench) -> None:
    """Memory, CPUs, user, read-only root and capabilities are what the spec says."""
    found = await shown(
        bench, memory="64m", cpus=0.5, user="1000:1000", read_only=True, cap_add=("NET_ADMIN",), cap_drop=("ALL",)
    )
    host = found["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["ReadonlyRootfs"]) == (64 * 1024**2, 500_000_000, True)
    assert [each.removeprefix("CAP_") for each in host["CapAdd"]] == ["NET_ADMIN"]
    assert host["CapDrop"] == ["ALL"]
    assert found["Config"]["User"] == "1000:1000"


@pytest.mark.real
async def test_stop_signal_and_grace_are_applied(bench: RealBench) -> None:
    """Docker knows the signal and the time to wait for it."""
    config = (await shown(bench, stop_signal="SIGUSR1", stop_grace_period="2500ms"))["Config"]
    assert (config["StopSignal"], config["StopTimeout"]) == ("SIGUSR1", 3)


@pytest.mark.real
async def test_stop_sends_the_specs_signal(bench: RealBench) -> None:
    """A process that ends on its own signal only is not killed."""
    program = Program(shell("trap 'exit 7' USR1; echo ready; while :; do busybox sleep 0.05; done"))
    adapter = bench.adapter()
    id_ = await adapter.run(request(bench, program, stop_signal="SIGUSR1"))

    async def is_ready() -> bool:
        return await adapter.tail(id_) == ("ready",)

    assert await eventually(is_ready, deadline_s=10)
    await adapter.stop(id_, 20)
    assert (await only(adapter)).exit_code == 7


@pytest.mark.real
async def test_volumes_and_hosts_are_applied(bench: RealBench, tmp_path: Path) -> None:
    """A bind mount is readable inside, and an extra host is known."""
    (tmp_path / "greeting").write_text("from the host\n")
    program = Program(shell("busybox cat /data/greeting; busybox grep db.internal /etc/hosts; echo x > /data/new"))
    adapter = bench.adapter()
    asked = request(bench, program, volumes=(f"{tmp_path}:/data:ro",), extra_hosts=("db.internal:192.0.2.7",))
    id_ = await adapter.run(asked)

    async def is_done() -> bool:
        return (await only(adapter)).state is ContainerState.EXITED

    assert await eventually(is_done, deadline_s=10)
    lines = await adapter.tail(id_)
    assert "from the host" in lines
    assert ["192.0.2.7", "db.internal"] in [line.split() for line in lines]
    assert not (tmp_path / "new").exists()


@pytest.mark.real
async def test_log_options_and_labels_are_applied(bench: RealBench) -> None:
    """Logs are rotated by default or as the spec says; labels of one's own stand beside ours."""
    by_default = await shown(bench, labels={"team": "shop"})
    assert by_default["HostConfig"]["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "10m", "max-file": "3"},
    }
    assert by_default["Config"]["Labels"]["team"] == "shop"
    await bench.adapter().remove(by_default["Id"])
    chosen = await shown(bench, log={"driver": "local", "options": {"max-size": "1m"}})
    assert chosen["HostConfig"]["LogConfig"] == {"Type": "local", "Config": {"max-size": "1m"}}


@pytest.mark.real
async def test_unreadable_logs_say_so(bench: RealBench) -> None:
    """With the driver ``none`` the tail is the daemon's explanation, and no error."""
    adapter = bench.adapter()
    id_ = await adapter.run(request(bench, POLITE, log={"driver": "none"}))
    assert "does not support reading" in "".join(await adapter.tail(id_))


@pytest.mark.real
async def test_docker_never_restarts_a_container(bench: RealBench) -> None:
    """The restart policy is no: only the agent starts containers."""
    found = await shown(bench)
    assert found["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert list(found["NetworkSettings"]["Networks"]) == [bench.app.network_name]


@pytest.mark.real
async def test_too_many_cpus_are_refused_in_the_daemons_words(bench: RealBench) -> None:
    """What only the daemon can judge is refused by it, and nothing is left."""
    with pytest.raises(DockerRefusedError, match="Range of CPUs"):
        await shown(bench, cpus=1000)
    assert (await bench.adapter().containers()).containers == ()


@pytest.mark.real
async def test_a_container_killed_for_memory_says_so(bench: RealBench) -> None:
    """
    A process that takes more memory than it may is reported as killed for that.

    A busy daemon sometimes learns of the exit before it learns of the cause, and then never tells: three tries.
    """
    eater = Program(shell("busybox dd if=/dev/zero of=/dev/null bs=200M count=1"))
    adapter = bench.adapter()

    async def is_done() -> bool:
        return (await only(adapter)).state is ContainerState.EXITED

    said: list[str] = []
    while "killed: out of memory" not in said and len(said) < 3:
        id_ = await adapter.run(request(bench, eater, memory="16m"))
        assert await eventually(is_done, deadline_s=20)
        said.append((await only(adapter)).error)
        await adapter.remove(id_)
    assert said[-1] == "killed: out of memory"

"""The lab itself: its servers come up, do what tests rely on, and leave nothing behind."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from cluster.servers.consul import ConsulServer, consul_server
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.haproxy import Haproxy, haproxy
from cluster.servers.images import Images
from cluster.servers.ports import free_port
from cluster.servers.process import ServerProcess, answers, eventually, listens
from cluster.servers.registry import Login, registry
from cluster.servers.tools import LabError, run

HAPROXY_CONFIG = """
defaults
    mode http
    timeout client 5s
    timeout connect 5s
    timeout server 5s
frontend web
    bind 127.0.0.1:{port}
    http-request return status 200 content-type text/plain string "{answer}"
"""


async def fetch(url: str) -> str:
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
        return await response.text()


def runs(pid: int) -> bool:
    """Say whether *pid* runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_a_port_is_never_handed_out_twice() -> None:
    """Two servers of one test never meet on a port."""
    ports = [free_port() for _ in range(100)]
    assert len(set(ports)) == 100


async def test_a_server_that_ends_at_once_is_an_error_with_its_log(tmp_path: Path) -> None:
    """Who starts a server that cannot run reads why."""
    server = ServerProcess(["sh", "-c", "echo no such disk; exit 3"], log=tmp_path / "log")
    with pytest.raises(LabError, match="no such disk"):
        await server.start(lambda: listens(1), deadline_s=5)


async def test_a_server_that_is_never_ready_is_ended_at_its_deadline(tmp_path: Path) -> None:
    """No wait is without an end, and no process stays."""
    server = ServerProcess(["sleep", "60"], log=tmp_path / "log")
    with pytest.raises(LabError, match=r"not ready after 0\.2 s"):
        await server.start(lambda: listens(1), deadline_s=0.2)
    assert not server.alive


async def test_a_server_dies_with_the_test_that_started_it(tmp_path: Path) -> None:
    """Even a test process that is killed leaves no server."""
    code = (
        "import asyncio, pathlib, sys; from cluster.servers.process import ServerProcess\n"
        "async def ready(): return True\n"
        "async def main():\n"
        "    server = ServerProcess(['sleep', '60'], log=pathlib.Path(sys.argv[1]))\n"
        "    await server.start(ready, deadline_s=5)\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    test = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path / "log"), stdout=subprocess.PIPE
    )
    assert test.stdout is not None
    async with asyncio.timeout(20):
        pid = int(await test.stdout.readline())
        assert runs(pid)
        test.kill()
        await test.communicate()

    async def gone() -> bool:
        return not runs(pid)

    assert await eventually(gone, deadline_s=5)


@pytest.mark.real
async def test_consul_takes_writes_and_keeps_them_through_a_kill(own_consul: ConsulServer) -> None:
    """A Consul that is killed and started again has what it had, at the same address."""
    assert await own_consul.put("shop/active/image", "shop:a", cas=0)
    assert not await own_consul.put("shop/active/image", "shop:b", cas=0)
    own_consul.kill()
    assert not await listens(own_consul.port)
    await own_consul.restart()
    assert await own_consul.tree("shop/") == {"shop/active/image": "shop:a"}
    await own_consul.delete("shop/", recurse=True)
    assert await own_consul.get("shop/active/image") is None


@pytest.mark.real
async def test_a_frozen_consul_accepts_connections_and_does_not_answer(own_consul: ConsulServer) -> None:
    """Frozen is not refused: that is the failure that only a deadline finds."""
    own_consul.freeze()
    assert await listens(own_consul.port)
    assert not await answers(f"{own_consul.address}/v1/status/leader")
    own_consul.thaw()

    async def thawed() -> bool:
        return await answers(f"{own_consul.address}/v1/status/leader")

    assert await eventually(thawed, deadline_s=10)


@pytest.mark.real
async def test_consul_with_acls_lets_a_token_do_just_what_its_rules_say(acl_consul: ConsulServer) -> None:
    """Without a token nothing is allowed; with one, what its policy names."""
    secret = await acl_consul.create_token('key_prefix "shop/" { policy = "write" }')
    url = f"{acl_consul.address}/v1/kv/"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        async with session.put(f"{url}shop/x", data="1") as response:
            assert response.status == 403
        headers = {"X-Consul-Token": secret}
        async with session.put(f"{url}shop/x", data="1", headers=headers) as response:
            assert response.status == 200
        async with session.put(f"{url}other", data="1", headers=headers) as response:
            assert response.status == 403
    assert await acl_consul.get("shop/x") == "1"


@pytest.mark.real
async def test_haproxy_reloads_to_a_new_configuration_under_the_same_master(haproxy_dir: Path, port: int) -> None:
    """After `reload` a new worker answers with the new configuration."""
    config = haproxy_dir / "haproxy.cfg"
    config.write_text(HAPROXY_CONFIG.format(port=port, answer="one"))
    async with haproxy(config, haproxy_dir) as server:
        master = server.pid
        assert await fetch(f"http://127.0.0.1:{port}/") == "one"
        config.write_text(HAPROXY_CONFIG.format(port=port, answer="two"))
        await server.reload()
        assert await fetch(f"http://127.0.0.1:{port}/") == "two"
        assert server.pid == master


@pytest.mark.real
async def test_a_killed_haproxy_leaves_no_worker_and_starts_again(haproxy_dir: Path, port: int) -> None:
    """A kill takes master and workers; nothing goes on answering."""
    config = haproxy_dir / "haproxy.cfg"
    config.write_text(HAPROXY_CONFIG.format(port=port, answer="one"))
    async with haproxy(config, haproxy_dir) as server:
        server.kill()
        assert await eventually(lambda: _is_silent(port), deadline_s=5)
        await server.start()
        assert await listens(port)
    assert not await listens(port)


async def _is_silent(port: int) -> bool:
    return not await listens(port)


@pytest.mark.real
async def test_a_configuration_that_haproxy_refuses_is_an_error_with_its_words(haproxy_dir: Path) -> None:
    """A wrong line is named, not waited for."""
    config = haproxy_dir / "haproxy.cfg"
    config.write_text("defaults\n    mode nonsense\n")
    with pytest.raises(LabError, match="nonsense"):
        await Haproxy(config, haproxy_dir).start()


@pytest.mark.real
async def test_the_test_app_is_pulled_from_the_registry_and_runs(
    docker: DockerDaemon, images: Images, app_name: str
) -> None:
    """What was pushed is in the registry alone, so that running it pulls it."""
    reference = await images.testapp("lab", exits="at-once")
    assert not (await docker.cli("images", "-q", reference)).strip()
    await docker.cli("run", "-d", "--rm", "--name", app_name, reference)
    try:
        address = await docker.cli("inspect", "-f", "{{.NetworkSettings.IPAddress}}", app_name)

        async def healthy() -> bool:
            return await answers(f"http://{address.strip()}:8080/health")

        assert await eventually(healthy, deadline_s=10)
    finally:
        await docker.cli("rm", "-f", app_name)


@pytest.mark.real
async def test_the_php_page_is_served_with_its_version(docker: DockerDaemon, images: Images, app_name: str) -> None:
    """The demo's page runs on the base that set-up chose."""
    reference = await images.php_page("lab-version")
    await docker.cli("run", "-d", "--rm", "--name", app_name, reference)
    try:
        address = (await docker.cli("inspect", "-f", "{{.NetworkSettings.IPAddress}}", app_name)).strip()

        async def healthy() -> bool:
            return await answers(f"http://{address}/health.php")

        assert await eventually(healthy, deadline_s=15)
        assert "lab-version" in await fetch(f"http://{address}/")
    finally:
        await docker.cli("rm", "-f", app_name)


@pytest.mark.real
async def test_a_registry_with_a_login_refuses_those_without(docker: DockerDaemon) -> None:
    """The lab's own pushes know the login; a pull without it is refused."""
    async with registry(Login("deploy", "s3cret")) as private:
        images = Images(docker, private)
        reference = await images.testapp("lab")
        with pytest.raises(LabError, match="no basic auth credentials"):
            await docker.cli("pull", reference)
        assert await answers(f"http://{private.address}/v2/", statuses=(401,))


@pytest.mark.real
async def test_a_free_subnet_is_one_that_docker_accepts(docker: DockerDaemon, app_name: str) -> None:
    """Two tests at once do not fight over a network, and labelled leftovers go."""
    subnet = await docker.free_subnet()
    label = f"lab={app_name}"
    await docker.cli("network", "create", "--label", label, "--subnet", str(subnet), app_name)
    try:
        assert await docker.free_subnet() != subnet
    finally:
        await docker.remove_labelled(label)
    assert not (await docker.cli("network", "ls", "-q", "--filter", f"label={label}")).strip()


@pytest.mark.real
async def test_a_daemon_of_the_labs_own_is_gone_when_it_was_used(tmp_path: Path, haproxy_dir: Path) -> None:
    """
    Where no daemon runs one is started, and stopped.

    Here it runs in a network namespace: two daemons in one would fight over the bridge of the user's own.
    """
    if os.geteuid() != 0:
        pytest.fail("only root may start dockerd; make test uses sudo for this")
    code = (
        "import asyncio, pathlib, sys; from cluster.servers.dockerd import started_daemon\n"
        "async def main():\n"
        "    async with started_daemon(sys.argv[1], sys.argv[2:]) as daemon:\n"
        "        print(pathlib.Path(sys.argv[2].partition('=')[2]).read_text())\n"
        "        assert await daemon.cli('network', 'ls', '-q')\n"
        "asyncio.run(main())\n"
    )
    host = f"unix://{haproxy_dir}/docker.sock"
    options = [f"--pidfile={tmp_path}/pid", f"--data-root={tmp_path}/data", f"--exec-root={haproxy_dir}/exec"]
    argv = ["unshare", "--net", sys.executable, "-c", code, host, *options]
    assert not runs(int(await run(argv, timeout_s=60)))


@pytest.mark.real
async def test_a_server_whose_user_is_cancelled_is_stopped() -> None:
    """Cancelling whoever uses a server (as Ctrl-C does) stops it."""
    started = asyncio.Event()
    pids: list[int] = []

    async def use() -> None:
        async with consul_server() as server:
            pids.append(server.process.pid)
            started.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        user = group.create_task(use())
        await started.wait()
        user.cancel()
    assert not runs(pids[0])

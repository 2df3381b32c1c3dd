"""The agent as a user of its own: it needs two groups and a directory, and leaves nothing that others can read."""

import grp
import os
import pwd
import socket
import stat
import sys
from pathlib import Path

import pytest

from cluster.scenarios.host import Scenario
from cluster.servers.consul import ConsulServer
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.host import Host, Plan
from cluster.servers.process import ServerProcess
from tests.e2e.host.conftest import MakeHost, PushedImages

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

USER = pwd.getpwnam("nobody")
GROUP = grp.getgrgid(USER.pw_gid).gr_name
_LISTENING = "0A"


async def test_an_agent_of_its_own_user_deploys_and_its_files_are_its_own(
    app_name: str, consul: ConsulServer, make_host: MakeHost, test_images: PushedImages, docker: DockerDaemon
) -> None:
    """In Docker's group and that of HAProxy's sockets, as docs/security.md says."""
    if os.geteuid() != 0:
        pytest.fail("only root can start a process as another user (make test uses sudo)")
    host = await make_host(Plan(app_name, settings={"haproxy": {"socket_group": GROUP}}))
    _give(host)
    host.agent = ServerProcess(_as_user(docker, host), log=host.home / "agent.log")
    scenario = Scenario(app_name, consul, [host])
    await consul.put(f"{app_name}/active/image", test_images.a)
    await host.start_agent()
    await scenario.activate(test_images.a)
    assert _uids(host.agent.pid) == {str(USER.pw_uid)}
    assert _listens(host.agent.pid) == {f"127.0.0.1:{host.settings.api.port}"}, "nobody from outside may ask it"
    await scenario.stage(test_images.b)
    await scenario.activate(test_images.b)
    await host.haproxy.reload()
    await scenario.retired(test_images.a)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (host.home / "state").iterdir()}
    maps = {name: mode for name, mode in modes.items() if name.endswith(".map")}
    assert set(maps.values()) == {0o640}, "HAProxy's group reads the maps, and nobody else"
    assert {mode for name, mode in modes.items() if name not in maps} == {0o600}
    assert stat.S_IMODE((host.home / "state").stat().st_mode) & 0o007 == 0


def _uids(pid: int) -> set[str]:
    """Return the real, effective, saved and file-system user of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return set(next(line for line in lines if line.startswith("Uid:")).split()[1:])


def _listens(pid: int) -> set[str]:
    """Return the TCP addresses a process listens on; one of IPv6 as the kernel writes it."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    own = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and fields[9] in own:
                address, _, port = fields[1].partition(":")
                name = address if table == "tcp6" else socket.inet_ntoa(bytes.fromhex(address)[::-1])
                found.add(f"{name}:{int(port, 16)}")
    return found


def _give(host: Host) -> None:
    """Do what an installer does."""
    for path in (host.home, host.home / "state", *(host.home / "state").iterdir()):
        os.chown(path, USER.pw_uid, USER.pw_gid)


def _as_user(docker: DockerDaemon, host: Host) -> list[str]:
    groups = f"{docker.socket.stat().st_gid},{USER.pw_gid}"
    return [
        *("setpriv", f"--reuid={USER.pw_uid}", f"--regid={USER.pw_gid}", f"--groups={groups}"),
        # It may read what it pleases, as this checkout and its Python may lie in a home directory; not write.
        *("--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search"),
        *("--ambient-caps=-all,+dac_read_search", "--no-new-privs", "--"),
        *(str(Path(sys.executable).with_name("tidegate")), "agent", "--config", str(host.config)),
    ]

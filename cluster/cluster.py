"""
The local cluster: brought up from nothing, scaled, and removed; ``make cluster`` and the cluster's tests use it.

All that it needs to be found again lies in one directory: secrets, ports, names of images.
"""

import asyncio
import json
import os
import shutil
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.policies import Role
from agent.adapters.consul.services import AGENT_SERVICE
from agent.adapters.consul.transport import TokenSource
from cluster.acl import ConsulApi
from cluster.machine import Machine
from cluster.machine_images import build_machines
from cluster.secrets import REGISTRY, SERVERS, ZONES, Secrets, create
from cluster.servers.cgroups import clear_unmounted
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.images import Images, Store
from cluster.servers.ports import free_port
from cluster.servers.process import eventually
from cluster.servers.tools import LabError, cache_dir, run, tool
from cluster.settings import AppPlan, docker_config, server_files, web_files

HERE = Path(__file__).parent
TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
_WEB_UNITS = ("consul-client", "haproxy", "tidegate-agent", "tidegate-drain")
_REGISTERED_S = 60.0
_SERVER_UNITS = ("consul-server", "tidegate-agent")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where on this machine the cluster is."""

    project: str
    network: str
    """First three numbers of its subnet."""
    site_port: int
    consul_port: int
    registry_port: int


def home_of(project: str) -> Path:
    """Return the directory of the cluster *project*; it exists while the cluster does."""
    return cache_dir() / "clusters" / project


class Cluster:
    """A cluster that is up, or was."""

    def __init__(self, docker: DockerDaemon, layout: Layout, secrets: Secrets, app: AppPlan) -> None:
        self.docker = docker
        self.layout = layout
        self.secrets = secrets
        self.app = app

    @property
    def home(self) -> Path:
        """Its directory."""
        return self.secrets.home.parent

    @property
    def site(self) -> str:
        """Where visitors reach the edge, past Docker's own forwarding: ``address:port``."""
        return f"{self.layout.network}.10:80"

    @property
    def gateway(self) -> str:
        """This machine's own address in the cluster's network."""
        return f"{self.layout.network}.1"

    @property
    def consul_addresses(self) -> list[str]:
        """The addresses of the Consul servers."""
        return [server.address for server in self.servers()]

    def consul(self) -> ConsulApi:
        """Return a client that may do everything, to be used as a context."""
        return ConsulApi(self.layout.consul_port, self.secrets)

    def client(self) -> ConsulClient:
        """Return the agent's own client, with the management token, to be used as a context."""
        trust = ssl.create_default_context(cafile=self.secrets.ca)
        address = f"https://127.0.0.1:{self.layout.consul_port}"
        return ConsulClient(address, token=TokenSource(self.secrets.tokens.get("management", "")), tls=trust)

    def machine(self, name: str) -> Machine:
        """Return the machine called ``web-2`` or ``consul-a``."""
        return Machine(name, f"{self.layout.project}-{name}-1", self._address(name), self.docker)

    def _address(self, name: str) -> str:
        """Return the fixed address of a machine, as compose.yaml says it."""
        first, _, last = name.partition("-")
        numbers = {"registry": 9, "edge": 10, "web": 20, "consul": 11}
        return f"{self.layout.network}.{numbers[first] + (ZONES.index(last) if first == 'consul' else int(last or 0))}"

    async def webs(self) -> list[Machine]:
        """Return the web hosts there are, running or not, by number."""
        options = ("-a", f"--filter=label=com.docker.compose.project={self.layout.project}")
        template = '{{.Label "com.docker.compose.service"}}'
        names = (await self.docker.cli("ps", *options, "--format", template)).split()
        return [self.machine(name) for name in sorted(names) if name.startswith("web-")]

    def servers(self) -> list[Machine]:
        """Return the Consul servers."""
        return [self.machine(name) for name in SERVERS]

    def images(self) -> Images:
        """Return what builds images and pushes them into the cluster's registry."""
        address = f"127.0.0.1:{self.layout.registry_port}"
        config = self.home / "docker"
        config.mkdir(exist_ok=True)
        (config / "config.json").write_text(docker_config(address, self.secrets))
        return Images(self.docker, Store(address, config))

    def reference(self, pushed: str) -> str:
        """Return how machines call an image that was pushed from here."""
        return f"{REGISTRY}/{pushed.partition('/')[2]}"

    # --- up and down ---

    async def power_up(self, count: int) -> None:
        """Start all machines, *count* of them web hosts; they know nothing yet."""
        await self._compose("up", "-d", "registry", "edge", *SERVERS, *_names(count), timeout_s=180)

    async def renew(self, name: str) -> None:
        """Put a new machine, which knows nothing, in the place of one."""
        await self._compose("up", "-d", "--no-deps", "--force-recreate", "-V", name, timeout_s=120)

    async def up(self, count: int) -> None:
        """Bring it up with *count* web hosts; returns when Consul shows every agent."""
        await self.power_up(count)
        await self.furnish()

    async def furnish(self) -> None:
        """Tell machines that are up what they are; returns when Consul shows every agent."""
        webs = await self.webs()
        async with asyncio.TaskGroup() as group:
            for server in self.servers():
                group.create_task(self._start_server(server))
            for web in webs:
                group.create_task(self._prepare(web))
            group.create_task(self._admit(webs))
        agents = len(webs) + len(SERVERS)
        async with self.consul() as consul:
            if not await eventually(lambda: consul.shows(AGENT_SERVICE, agents), deadline_s=_REGISTERED_S):
                raise LabError(f"Consul does not show {agents} agents within {_REGISTERED_S:g} s")

    async def scale(self, count: int) -> list[Machine]:
        """Have *count* web hosts; returns those that are new. Ones that go shut down in order."""
        before = {web.name for web in await self.webs()}
        wanted = _names(count)
        if surplus := sorted(before - set(wanted)):
            await self._compose("stop", "-t", "60", *surplus, timeout_s=180)
            await self._compose("rm", "-f", "-v", *surplus, timeout_s=60)
        await self._compose("up", "-d", "--no-recreate", *wanted, timeout_s=180)
        new = [self.machine(name) for name in wanted if name not in before]
        async with self.consul() as consul:
            for web in new:
                await consul.create_machine_tokens(web.name, Role.NODE)
        await asyncio.gather(*(self._prepare(web) for web in new))
        return new

    async def mend(self, count: int) -> None:
        """Start what is stopped, and have *count* web hosts that see Consul; their agents may still come up."""
        stopped = ("-a", f"--filter=label=com.docker.compose.project={self.layout.project}", "--filter=status=exited")
        names = (await self.docker.cli("ps", *stopped, "--format", "{{.Names}}")).split()
        if names:
            await self.docker.cli("start", *names, timeout_s=60)
        await self.scale(count)
        for web in await self.webs():
            await web.booted()
            await web.rejoin(self.consul_addresses)

    async def down(self) -> None:
        """Remove machines, networks, volumes and files."""
        await self._compose("--profile", "more", "down", "-v", "--remove-orphans", "-t", "0", timeout_s=180)
        shutil.rmtree(self.home)
        await clear_unmounted()

    def environment(self, role: Role = Role.OPERATOR) -> dict[str, str]:
        """Return the variables by which ``tidegate`` and ``consul`` find the cluster, with the token of *role*."""
        return {
            "CONSUL_HTTP_ADDR": f"https://127.0.0.1:{self.layout.consul_port}",
            "CONSUL_CACERT": str(self.secrets.ca),
            "CONSUL_HTTP_TOKEN_FILE": str(self._token_file(role)),
        }

    def _token_file(self, role: Role) -> Path:
        file = self.secrets.home / f"{role}.token"
        file.touch(mode=0o600)
        file.write_text(self.secrets.token(str(role)))
        return file

    async def _start_server(self, server: Machine) -> None:
        await server.booted()
        await server.put(server_files(server.name, self.secrets))
        await server.run("update-ca-certificates")
        await server.systemctl("start", *_SERVER_UNITS)

    async def _prepare(self, web: Machine) -> None:
        await web.booted()
        await web.put(web_files(web.name, self.secrets, self.app))
        await web.run("update-ca-certificates")
        await web.systemctl("start", *_WEB_UNITS)

    async def _admit(self, webs: Sequence[Machine]) -> None:
        async with self.consul() as consul:
            await consul.bootstrap()
            for server in self.servers():
                await consul.create_machine_tokens(server.name, Role.COORDINATOR)
            for web in webs:
                await consul.create_machine_tokens(web.name, Role.NODE)
            await consul.create_people_tokens()

    async def _compose(self, *arguments: str, timeout_s: float) -> str:
        options = ("-p", self.layout.project, "-f", str(HERE / "compose.yaml"))
        program = await _compose_program()
        return await run(
            [*program, *options, "--env-file", str(self.home / "compose.env"), *arguments],
            timeout_s=timeout_s,
            env={"DOCKER_HOST": self.docker.host},
        )


def _names(count: int) -> list[str]:
    return [f"web-{number}" for number in range(1, count + 1)]


async def make(
    docker: DockerDaemon, project: str, app: AppPlan, own_images: Mapping[str, str] = MappingProxyType({})
) -> Cluster:
    """
    Choose all there is to choose about a new cluster, build its machines' images, and write it down.

    Args:
        own_images: by role, what takes the place of the image built here.
    """
    home = home_of(project)
    if home.exists():
        raise LabError(f"there is a cluster {project} already ({home}): make cluster-down removes it")
    images = {**await build_machines(docker), **own_images}
    secrets = await create(home / "secrets")
    subnet = await docker.free_subnet()
    layout = Layout(project, str(subnet[0]).rpartition(".")[0], free_port(), free_port(), free_port())
    variables = {f"{role}_image": image for role, image in images.items()}
    variables |= {"secrets": str(secrets.home)} | {key: str(value) for key, value in asdict(layout).items()}
    lines = (f"TIDEGATE_{key.upper()}={value}\n" for key, value in variables.items())
    (home / "compose.env").write_text("".join(lines))
    (home / "cluster.json").write_text(json.dumps({"layout": asdict(layout), "app": asdict(app)}))
    return Cluster(docker, layout, secrets, app)


def find(docker: DockerDaemon, project: str) -> Cluster:
    """
    Return the cluster *project*.

    Raises:
        LabError: there is none.
    """
    home = home_of(project)
    if not (home / "cluster.json").exists():
        raise LabError("there is no cluster: make cluster brings one up")
    kept = json.loads((home / "cluster.json").read_text())
    return Cluster(docker, Layout(**kept["layout"]), Secrets.load(home / "secrets"), AppPlan(**kept["app"]))


async def _compose_program() -> list[str]:
    """Return the user's own Compose v2, else the one that set-up unpacked."""
    try:
        await run(["docker", "compose", "version"], timeout_s=10)
    except LabError:
        own = cache_dir() / "bin" / "docker-compose"
        if not os.access(own, os.X_OK):
            raise LabError("Docker Compose v2 is not installed: run cluster/setup/setup.sh") from None
        return [str(own)]
    return [tool("docker"), "compose"]

"""
A whole fleet on this machine: Consul servers in default deny, hosts, coordinators, and a balancer in front.

Each host has a Consul agent, an HAProxy and a Docker network of its own; everybody has the token of their role and
no other. Coordinators run beside the Consul servers, one each, as they do where hosts face the internet.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.policies import Role, policy
from agent.adapters.consul.transport import TokenSource
from agent.core.model.keys import coordinator
from agent.core.model.names import AppName
from agent.core.model.report import NodeReport
from cluster.servers.balancer import Balancer, balancer
from cluster.servers.consul import ConsulServer, consul_client, consul_cluster
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.host import TEST_KNOBS, Host, Plan, host
from cluster.servers.ports import free_port
from cluster.servers.process import ServerProcess, answers, eventually
from cluster.servers.tools import LabError

TIDEGATE = str(Path(sys.executable).with_name("tidegate"))


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What a fleet shall be like."""

    app: str
    nodes: Sequence[str] = ("web-1", "web-2", "web-3", "web-4", "web-5")
    later: Sequence[str] = ()
    """Hosts the balancer knows, which do not exist yet."""
    knobs: Mapping[str, str] = field(default_factory=lambda: dict(TEST_KNOBS))


class Coordinator:
    """An agent without apps that may coordinate; it talks to *consul*."""

    def __init__(self, home: Path, node: str, app: str, consul: ConsulServer, token_file: Path) -> None:
        self.node = node
        self.consul = consul
        self.config = home / f"{node}.toml"
        self.port = free_port()
        table = {
            "node": node,
            "state_dir": str(home / node),
            "coordinator": True,
            "coordinates": [app],
            "apps": [],
            "consul": {"address": consul.address, "token_file": str(token_file)},
            "docker": {"config_file": str(home / "docker.json")},
            "api": {"port": self.port},
        }
        self.config.write_text(tomli_w.dumps(table), "utf-8")
        self.agent = ServerProcess([TIDEGATE, "agent", "--config", str(self.config)], log=home / f"{node}.log")

    async def start(self) -> None:
        """Start it; returns when its API answers."""
        await self.agent.start(lambda: answers(f"http://127.0.0.1:{self.port}/healthz"), deadline_s=30)


@dataclass(slots=True)
class Fleet:
    """The parts, each to be stopped, killed and started alone."""

    plan: FleetPlan
    home: Path
    docker: DockerDaemon
    servers: list[ConsulServer]
    tokens: Mapping[Role, Path]
    """A file with the token of each role."""
    ports: Mapping[str, int]
    """Of each host, for visitors."""
    edge: Balancer
    hosts: dict[str, Host] = field(default_factory=dict)
    consuls: dict[str, ConsulServer] = field(default_factory=dict)
    """The Consul agent of each host."""
    coordinators: dict[str, Coordinator] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _subnets: set[str] = field(default_factory=set)
    _choosing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def app(self) -> str:
        """The app's name."""
        return self.plan.app

    @property
    def consul(self) -> ConsulServer:
        """A server that runs; what tests read and write goes there, with the management token."""
        return next(server for server in self.servers if server.process.alive)

    def client(self) -> ConsulClient:
        """Return a client that may do everything, to be used as a context."""
        return ConsulClient(self.consul.address, token=TokenSource(self.consul.token or ""))

    async def leader(self) -> ConsulServer:
        """Return the server that leads."""
        for server in self.servers:
            if server.process.alive and await server.is_leader():
                return server
        raise LabError("no Consul server leads")

    async def holder(self) -> str:
        """Return the node name of the coordinator that holds the lock; empty where none does."""
        async with self.client() as client:
            lock = await client.get(coordinator(AppName(self.app)))
        return str(json.loads(lock.value)["node"]) if lock and lock.session else ""

    async def add(self, node: str) -> Host:
        """Make a host with its Consul agent; its own agent is not started yet."""
        consul = await self._stack.enter_async_context(consul_client(self.servers, name=node))
        settings = {"consul": {"token_file": str(self.tokens[Role.NODE])}}
        app_settings = {"port": self.ports[node], "subnet": await self._subnet()}
        plan = Plan(self.app, node=node, knobs=self.plan.knobs, settings=settings, app_settings=app_settings)
        made = await self._stack.enter_async_context(host(plan, self.docker, consul))
        self.hosts[node], self.consuls[node] = made, consul
        return made

    def environment(self, role: Role = Role.OPERATOR, server: ConsulServer | None = None) -> dict[str, str]:
        """Return the variables by which ``tidegate`` finds Consul, as the consul command reads them."""
        consul = server or self.consul
        return {"CONSUL_HTTP_ADDR": consul.address, "CONSUL_HTTP_TOKEN_FILE": str(self.tokens[role])}

    async def cli(self, *arguments: str, role: Role = Role.OPERATOR) -> "Said":
        """Run ``tidegate`` to its end, as someone with the token of *role* alone."""
        return await (await self.begin(*arguments, role=role)).said()

    async def begin(self, *arguments: str, role: Role = Role.OPERATOR) -> "Command":
        """Start ``tidegate`` and return at once."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("CONSUL_", "TIDEGATE_"))}
        process = await asyncio.create_subprocess_exec(
            *(TIDEGATE, *arguments),
            env={**env, "TIDEGATE_CONFIG": str(self.home / "none.toml"), **self.environment(role)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return Command(process)

    async def serving(self) -> str:
        """Return the one image that all hosts give to new visitors."""
        reports = [await each.until(_serves) for each in self.hosts.values()]
        images = {slot.image for report in reports for slot in report.slots.values() if slot.is_up}
        if len({image.partition("@")[0] for image in images}) != 1:
            raise LabError(f"the hosts serve {sorted(images)}")
        return images.pop()

    async def mend(self) -> None:
        """Start again what a test killed; returns when it answers, and all servers vote."""
        for server in self.servers:
            if not server.process.alive:
                await server.restart()

        async def all_vote() -> bool:
            # Autopilot takes a dead server's vote, and gives it back after 10 s: until then no other may die.
            return await self.servers[0].counts_voters() == len(self.servers)

        if not await eventually(all_vote, deadline_s=40):
            raise LabError("not every Consul server votes")
        for each in self.coordinators.values():
            if not each.agent.alive:
                await each.start()

    async def close(self) -> None:
        """Stop everything."""
        everyone = [*(each.agent for each in self.hosts.values()), *(each.agent for each in self.coordinators.values())]
        await asyncio.gather(*(agent.stop() for agent in everyone))
        for consul in (*self.consuls.values(), *self.servers):
            consul.kill()  # one that is asked to end leaves its cluster first, for seconds
        await self._stack.aclose()

    async def _subnet(self) -> str:
        """Choose one that no other host has, though networks are made later."""
        async with self._choosing:
            while (chosen := str(await self.docker.free_subnet())) in self._subnets:
                pass
            self._subnets.add(chosen)
        return chosen


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as a JSON document."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Command:
    """A ``tidegate`` that runs."""

    process: asyncio.subprocess.Process

    async def said(self, *, deadline_s: float = 90.0) -> Said:
        """Wait for its end; it is killed at the deadline, and that is an error."""
        try:
            async with asyncio.timeout(deadline_s):
                out, err = await self.process.communicate()
        except TimeoutError as exc:
            self.process.kill()
            out, err = await self.process.communicate()
            raise LabError(f"tidegate did not end within {deadline_s} s:\n{out.decode()}\n{err.decode()}") from exc
        assert self.process.returncode is not None
        return Said(self.process.returncode, out.decode(), err.decode())


async def said_by(argv: Sequence[str], env: Mapping[str, str]) -> Said:
    """Run a command with just the environment *env*, to its end."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return await Command(process).said()


@asynccontextmanager
async def fleet(plan: FleetPlan, docker: DockerDaemon, *, image: str) -> AsyncIterator[Fleet]:
    """Make the fleet and let it serve *image*, set by hand; returns when the balancer sends to every host."""
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-fleet-")))
        servers = await stack.enter_async_context(consul_cluster(acl=True))
        ports = {node: free_port() for node in (*plan.nodes, *plan.later)}
        edge = await stack.enter_async_context(balancer(plan.app, ports))
        made = Fleet(plan, home, docker, servers, await _tokens(home, servers[0], plan.app), ports, edge)
        stack.push_async_callback(made.close)
        await servers[0].put(f"{plan.app}/active/image", image)
        hosts = await asyncio.gather(*(made.add(node) for node in plan.nodes))
        for number, server in enumerate(servers, start=1):
            name = f"coordinator-{number}"
            made.coordinators[name] = Coordinator(home, name, plan.app, server, made.tokens[Role.COORDINATOR])
        await asyncio.gather(
            *(each.start_agent() for each in hosts), *(each.start() for each in made.coordinators.values())
        )
        await edge.until(*plan.nodes, deadline_s=60)
        await until_all(hosts, _serves)
        yield made


def _serves(report: NodeReport) -> bool:
    return any(slot.is_up for slot in report.slots.values())


async def _tokens(home: Path, server: ConsulServer, app: str) -> dict[Role, Path]:
    files = {}
    for role in Role:
        files[role] = home / f"{role}.token"
        files[role].write_text(await server.create_token(policy(role, AppName(app))))
    return files


async def until_all(
    hosts: Sequence[Host], condition: Callable[[NodeReport], bool], *, deadline_s: float = 60.0
) -> None:
    """Wait until the report of every host meets *condition*."""
    await asyncio.gather(*(each.until(condition, deadline_s=deadline_s) for each in hosts))

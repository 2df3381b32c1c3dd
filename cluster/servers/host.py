"""
A whole host on this machine: its own HAProxy, Docker network and state directory, and the agent as a process.

Several of them run side by side; each is reached at its own loopback port and knows nothing of the others.
"""

import asyncio
import json
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from agent.adapters.docker.container_config import labels_filter
from agent.config import Settings, load
from agent.core.model.report import NodeReport
from cluster.servers.consul import ConsulServer
from cluster.servers.dockerd import DockerDaemon
from cluster.servers.haproxy import Haproxy
from cluster.servers.ports import free_port
from cluster.servers.process import ServerProcess, eventually
from cluster.servers.tools import LabError, run

TEST_KNOBS = {
    "min_healthy_time": "1s",
    "bake_time": "2s",
    "visit_idle": "4s",
    "drain_timeout": "30s",
    "healthy_deadline": "20s",
    "stop_grace_period": "5s",
}
"""Short, so that a deploy under test takes seconds."""
HARD_STOP_AFTER = "10s"
_TIDEGATE = str(Path(sys.executable).with_name("tidegate"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a host shall be like."""

    app: str
    node: str = "web-1"
    health_path: str = "/health"
    container_port: int = 8080
    knobs: Mapping[str, str] = field(default_factory=lambda: dict(TEST_KNOBS))
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings, tables into the tables that are there."""
    app_settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the app."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Further environment of HAProxy and the agent."""


class Host:
    """The parts of one host, each to be stopped, killed and started alone."""

    def __init__(self, home: Path, settings: Settings, plan: Plan, docker: DockerDaemon) -> None:
        self.home = home
        self.docker = docker
        self.plan = plan
        self.settings = settings
        self.config = home / "tidegate.toml"
        self.haproxy = Haproxy(home / "haproxy.cfg", home, env=plan.env, group=settings.haproxy.socket_group)
        self.agent = ServerProcess(
            [_TIDEGATE, "agent", "--config", str(self.config)], log=home / "agent.log", env=plan.env
        )

    @property
    def target(self) -> str:
        """Where visitors reach the host: ``127.0.0.1:port``."""
        return f"127.0.0.1:{self.settings.app.port}"

    async def start_haproxy(self) -> None:
        """Render the configuration as an operator would, and start HAProxy on it."""
        await run(
            [_TIDEGATE, "haproxy-config", "--config", str(self.config), "--out", str(self.haproxy.config)], timeout_s=60
        )
        await self.haproxy.start()

    async def start_agent(self) -> None:
        """Start the agent; returns when its API answers."""
        await self.agent.start(self._answers, deadline_s=30)

    async def start_as(self, *arguments: str) -> None:
        """Start another program, ``python`` with *arguments*, in the agent's place; returns when its API answers."""
        await self.agent.stop()
        self.agent = ServerProcess([sys.executable, *arguments], log=self.home / "agent.log", env=self.plan.env)
        await self.agent.start(self._answers, deadline_s=30)

    async def reboot(self) -> None:
        """
        Do what a power cut and the boot after it do; then the agent runs again, in what it takes for a new boot.

        Containers have died and stay where they are; HAProxy starts without what it knew, and before the agent.
        """
        self.agent.kill()
        self.haproxy.kill()
        label = f"--filter=label=tidegate.app={self.plan.app}"
        if running := (await self.docker.cli("ps", "-q", label)).split():
            await self.docker.cli("kill", *running)
        self.settings.haproxy.server_state_file.unlink(missing_ok=True)
        await self.haproxy.start()
        boot_id = self.home / "boot-id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
        private = ["unshare", "--mount", "sh", "-c", script, str(boot_id)]
        self.agent = ServerProcess(
            [*private, _TIDEGATE, "agent", "--config", str(self.config)], log=self.home / "agent.log", env=self.plan.env
        )
        await self.start_agent()

    async def _answers(self) -> bool:
        return await asyncio.to_thread(self._fetch, "/healthz") is not None

    async def stop_agent(self) -> None:
        """End the agent as systemd would."""
        await self.agent.stop(grace_s=10)

    async def report(self) -> NodeReport | None:
        """Return what ``tidegate status`` shows; None while the agent does not answer."""
        text = await asyncio.to_thread(self._fetch, "/v1/status")
        return None if text is None else NodeReport.model_validate_json(text)

    async def api(self, path: str) -> Any:
        """GET a JSON document from the agent's API."""
        text = await asyncio.to_thread(self._fetch, path)
        if text is None:
            raise LabError(f"the agent of {self.plan.node} does not answer {path}")
        return json.loads(text)

    async def cli(self, *arguments: str) -> str:
        """Run ``tidegate`` with this host's settings and return what it prints."""
        return await run([_TIDEGATE, *arguments, "--config", str(self.config)], timeout_s=20)

    async def until(self, condition: Callable[[NodeReport], bool], *, deadline_s: float = 30.0) -> NodeReport:
        """
        Wait until the report meets *condition*; return that report.

        Raises:
            LabError: not within *deadline_s*, with the last report and the end of the agent's log.
        """
        last: NodeReport | None = None

        async def met() -> bool:
            nonlocal last
            last = await self.report() or last
            return last is not None and condition(last)

        if not await eventually(met, deadline_s=deadline_s):
            shown = last.model_dump_json(indent=1, exclude_defaults=True) if last else "no report"
            raise LabError(f"not within {deadline_s} s; last report: {shown}\n{self.agent.log_tail(40)}")
        assert last is not None
        return last

    def _fetch(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.settings.api.port}{path}", timeout=5) as reply:
                return str(reply.read().decode())
        except urllib.error.HTTPError as exc:
            return None if exc.code >= 500 else str(exc.read().decode())
        except OSError:
            return None


@asynccontextmanager
async def host(plan: Plan, docker: DockerDaemon, consul: ConsulServer) -> AsyncIterator[Host]:
    """Make a host with HAProxy running and no agent yet; in the end nothing of it is left."""
    home = Path(tempfile.mkdtemp(prefix="tg-host-"))
    made: Host | None = None
    try:
        subnet = await docker.free_subnet()
        (home / "tidegate.toml").write_text(tomli_w.dumps(_settings(plan, home, docker, consul, str(subnet))), "utf-8")
        made = Host(home, load(home / "tidegate.toml"), plan, docker)
        await made.start_haproxy()
        yield made
    finally:
        if made is not None:
            await made.agent.stop()
            await made.haproxy.stop()
            await _remove_containers(docker, made.settings)
        shutil.rmtree(home, ignore_errors=True)


async def _remove_containers(docker: DockerDaemon, settings: Settings) -> None:
    filters = [f"--filter=label={label}" for label in labels_filter(settings.app, settings.node)]
    found = (await docker.cli("ps", "-aq", *filters)).split()
    if found:
        await docker.cli("rm", "-f", "-v", *found, timeout_s=60)
    networks = (await docker.cli("network", "ls", "--format", "{{.Name}}")).split()
    if settings.app.network_name in networks:
        await docker.cli("network", "rm", settings.app.network_name)


def _settings(plan: Plan, home: Path, docker: DockerDaemon, consul: ConsulServer, subnet: str) -> dict[str, Any]:
    table: dict[str, Any] = {
        "node": plan.node,
        "state_dir": str(home / "state"),
        "consul": {"address": consul.address},
        "docker": {"socket": docker.host, "config_file": str(home / "docker.json")},
        "haproxy": {
            "socket": str(home / "haproxy.sock"),
            "master_socket": str(home / "master.sock"),
            "server_state_file": str(home / "servers.state"),
            "hard_stop_after": HARD_STOP_AFTER,
            "ops_port": free_port(),
        },
        "api": {"port": free_port()},
        "apps": [
            {
                "name": plan.app,
                "port": free_port(),
                "bind": "127.0.0.1",
                "container_port": plan.container_port,
                "health_path": plan.health_path,
                "subnet": subnet,
                "network": f"tidegate-{plan.app}-{plan.node}",
                **plan.app_settings,
                "knobs": dict(plan.knobs),
            },
        ],
    }
    for key, value in plan.settings.items():
        table[key] = table.get(key, {}) | dict(value) if isinstance(value, Mapping) else value
    return table

"""A real image registry on loopback; Docker lets registries on 127.0.0.0/8 do without TLS."""

import base64
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.servers.ports import free_port
from cluster.servers.process import ServerProcess, answers
from cluster.servers.tools import run


@dataclass(frozen=True, slots=True)
class Login:
    """A user the registry lets in; with one, it lets in nobody else."""

    user: str
    password: str


class Registry:
    """
    A running registry: `address` is host:port, as in image references.

    `docker_config` is a directory for `docker --config`: it holds the login, where there is one.
    """

    def __init__(self, home: Path, login: Login | None) -> None:
        self.home = home
        self.login = login
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.docker_config = home / "docker"
        self.process = ServerProcess(["docker-registry", "serve", str(home / "config.yml")], log=home / "registry.log")

    async def start(self) -> None:
        """Start it (again); images it held are still there."""
        await self._write_config()
        await self.process.start(lambda: answers(f"http://{self.address}/v2/", statuses=(200, 401)), deadline_s=10)

    async def stop(self) -> None:
        """Stop it; its images stay until the context ends."""
        await self.process.stop()

    async def _write_config(self) -> None:
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.home / "images")},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.address},
        }
        self.docker_config.mkdir(exist_ok=True)
        client: dict[str, object] = {}
        if self.login is not None:
            users = self.home / "htpasswd"
            users.write_text(f"{self.login.user}:{await bcrypt(self.login.password)}\n")
            config["auth"] = {"htpasswd": {"realm": "lab", "path": str(users)}}
            secret = base64.b64encode(f"{self.login.user}:{self.login.password}".encode()).decode()
            client["auths"] = {self.address: {"auth": secret}}
        # JSON is YAML too.
        (self.home / "config.yml").write_text(json.dumps(config))
        (self.docker_config / "config.json").write_text(json.dumps(client))


async def bcrypt(password: str) -> str:
    """Hash as the registry demands; perl is on every Debian and asks the C library, which knows bcrypt."""
    return await run(["perl", "-e", "print crypt($ARGV[0], q($2y$05$labsaltlabsaltlabsalte))", password], timeout_s=10)


@asynccontextmanager
async def registry(login: Login | None = None) -> AsyncIterator[Registry]:
    """Run a registry of its own, empty at first; with *login* it asks for that user and password."""
    with tempfile.TemporaryDirectory(prefix="tg-registry-") as home:
        server = Registry(Path(home), login)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()

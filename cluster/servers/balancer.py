"""
The balancer in front of a fleet: no stickiness, each request to the next host that calls itself ready.

It hides nothing: it does not send a request twice, and an error of a host is the visitor's error.
"""

import asyncio
import csv
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.servers.haproxy import Haproxy
from cluster.servers.ports import free_port
from cluster.servers.process import eventually
from cluster.servers.tools import LabError

_CONFIG = """
global
    stats socket {home}/edge.sock mode 600 level admin
    maxconn 8000
defaults
    mode http
    timeout connect 2s
    timeout client 90s
    timeout server 90s
    timeout tunnel 1h
    timeout http-keep-alive 90s
    retries 0
    # The hosts keep idle connections for 75 s; shorter here, so that no request meets one that is being closed.
    default-server inter 500ms fall 1 rise 1 pool-purge-delay 5s
frontend edge
    bind 127.0.0.1:{port}
    default_backend hosts
backend hosts
    balance roundrobin
    option httpchk
    http-check send meth GET uri /_lb/{app}
    http-check expect status 200
{servers}
"""


class Balancer:
    """HAProxy on one port over the *hosts*, by name and port; those that do not answer get nothing."""

    def __init__(self, home: Path, app: str, hosts: Mapping[str, int]) -> None:
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"
        self._socket = home / "edge.sock"
        servers = "\n".join(f"    server {name} 127.0.0.1:{port} check" for name, port in hosts.items())
        config = home / "edge.cfg"
        config.write_text(_CONFIG.format(home=home, port=self.port, app=app, servers=servers))
        self.haproxy = Haproxy(config, home)

    async def up(self) -> frozenset[str]:
        """Return the hosts that get requests."""
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(b"show stat hosts 4 -1\n")
            text = (await reader.read()).decode()
        finally:
            writer.close()
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return frozenset(row["svname"] for row in rows if row["status"] == "UP" and row["check_status"] == "L7OK")

    async def until(self, *names: str, deadline_s: float = 15.0) -> None:
        """Wait until just these hosts get requests."""

        async def settled() -> bool:
            return await self.up() == frozenset(names)

        if not await eventually(settled, deadline_s=deadline_s):
            raise LabError(f"the balancer sends to {sorted(await self.up())}, expected {sorted(names)}")


@asynccontextmanager
async def balancer(app: str, hosts: Mapping[str, int]) -> AsyncIterator[Balancer]:
    """Run the balancer until the block ends."""
    with tempfile.TemporaryDirectory(prefix="tg-edge-") as home:
        edge = Balancer(Path(home), app, hosts)
        try:
            await edge.haproxy.start()
            yield edge
        finally:
            await edge.haproxy.stop()

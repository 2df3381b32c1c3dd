"""One visitor with a cookie jar, for tests that need no load."""

import asyncio
from dataclasses import dataclass, field

from cluster.traffic.http import Connection, Head


@dataclass(slots=True)
class Visitor:
    """Somebody who keeps the cookies they are given."""

    target: str
    jar: dict[str, str] = field(default_factory=dict)

    async def ask(self, path: str = "/") -> str | None:
        """Return the version that answers."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        head = await ask(self.target, path, f"Cookie: {cookies}\r\n" if cookies else "")
        self.jar |= dict(cookie.partition(";")[0].split("=", 1) for cookie in head.set_cookies)
        return head.version


async def ask(target: str, path: str, fields: str = "") -> Head:
    """GET *path* on a connection of its own; *fields* are header lines."""
    async with asyncio.timeout(10):
        connection = await Connection.open(target)
        try:
            await connection.send("GET", path, f"{fields}Connection: close\r\n")
            head = await connection.read_head()
            await connection.read_body(head)
            return head
        finally:
            connection.close()

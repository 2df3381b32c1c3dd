"""A container's stand-in behind the real HAProxy: an HTTP server on a slot's address."""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable

_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Backend:
    """
    Answers every GET with its name (also as X-Version).

    /health: 200 while `healthy`, else 500. /hold: answers when `release` is set. /cached: says it may be cached.
    /ws: a WebSocket that echoes the client's bytes.
    """

    def __init__(self, name: str, address: str, port: int) -> None:
        self.name = name
        self.healthy = True
        self.release = asyncio.Event()
        self.requests: list[str] = []
        """Paths asked for, without the health checks."""
        self._where = (address, port)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Idempotent."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, *self._where)

    async def stop(self) -> None:
        """Refuse new connections. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
            # The loop takes the listening socket away with its next round.
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(60):
                await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        path = head.split(" ", 2)[1]
        if path != "/health":
            self.requests.append(path)
        paths: dict[str, Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]] = {
            "/ws": self._echo,
            "/hold": self._hold,
        }
        await paths.get(path, self._page)(head, reader, writer)

    async def _page(self, head: str, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ", 2)[1]
        status = "500 No" if path == "/health" and not self.healthy else "200 OK"
        extra = "Cache-Control: public, max-age=60\r\n" if path == "/cached" else ""
        fields = f"X-Version: {self.name}\r\nConnection: close\r\nContent-Length: {len(self.name)}\r\n{extra}"
        writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n{self.name}".encode())
        await writer.drain()

    async def _hold(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.release.wait()
        await self._page(head, reader, writer)

    async def _echo(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = next(
            line.partition(":")[2].strip()
            for line in head.split("\r\n")
            if line.lower().startswith("sec-websocket-key:")
        )
        accept = base64.b64encode(hashlib.sha1((key + _SUFFIX).encode(), usedforsecurity=False).digest()).decode()
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        fields = f"X-Version: {self.name}\r\n{upgrade}Sec-WebSocket-Accept: {accept}\r\n"
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n".encode())
        while data := await reader.read(4096):
            # What a client sends is masked; turned round it must not be.
            if data[0] & 15 == 1:
                mask, payload = data[2:6], data[6:]
                text = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
                writer.write(bytes((data[0], len(text))) + text)
            await writer.drain()

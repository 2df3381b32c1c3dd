"""The client's side of a WebSocket (RFC 6455) on a connection of the generator: text messages, no extensions."""

import asyncio
import base64
import hashlib
import os

from cluster.traffic.http import Connection, Head, require_good
from cluster.traffic.record import Fault, RequestFailedError

_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class WebSocket:
    """An open conversation. Its end before `close` is a cut."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send(self, text: str) -> None:
        """
        Send one text message.

        Raises:
            RequestFailedError: the connection has ended.
        """
        await self._send(_TEXT, text.encode())

    async def receive(self) -> str:
        """
        Read the next text message; answer pings on the way.

        Raises:
            RequestFailedError: the server closed, or the connection ended.
        """
        while True:
            opcode, payload = await self._read_frame()
            if opcode == _TEXT:
                return payload.decode()
            if opcode == _CLOSE:
                raise RequestFailedError(Fault.CUT, f"closed by the server, code {int.from_bytes(payload[:2])}")
            if opcode == _PING:
                await self._send(_PONG, payload)

    async def close(self) -> None:
        """
        Say good-bye and wait for the answer.

        Raises:
            RequestFailedError: the connection ended without one.
        """
        await self._send(_CLOSE, (1000).to_bytes(2))
        while (await self._read_frame())[0] != _CLOSE:
            pass

    async def _send(self, opcode: int, payload: bytes) -> None:
        if len(payload) > 125:
            raise ValueError("a message of the generator has at most 125 bytes")
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        try:
            self._connection.writer.write(bytes((0x80 | opcode, 0x80 | len(payload))) + mask + masked)
            await self._connection.writer.drain()
        except OSError as exc:
            raise RequestFailedError(Fault.CUT, f"while sending: {exc}") from exc

    async def _read_frame(self) -> tuple[int, bytes]:
        reader = self._connection.reader
        try:
            first, size = await reader.readexactly(2)
            if size > 125:
                size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
            payload = await reader.readexactly(size)
        except asyncio.IncompleteReadError as exc:
            raise RequestFailedError(Fault.CUT, "the connection ended between two messages") from exc
        except OSError as exc:
            raise RequestFailedError(Fault.CUT, str(exc)) from exc
        return first & 15, payload


async def open_websocket(connection: Connection, path: str, fields: str = "") -> tuple[Head, WebSocket]:
    """
    Upgrade *connection*; *fields* are further header lines.

    Raises:
        RequestFailedError: no connection, no upgrade, or a wrong one.
    """
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    await connection.send("GET", path, fields + upgrade)
    head = await connection.read_head()
    require_good(head)
    digest = hashlib.sha1((key + _SUFFIX).encode(), usedforsecurity=False).digest()
    if head.status != 101 or head.fields.get("sec-websocket-accept") != base64.b64encode(digest).decode():
        raise RequestFailedError(Fault.BAD_REPLY, f"status {head.status} is no upgrade to a WebSocket")
    return head, WebSocket(connection)

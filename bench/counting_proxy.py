"""A proxy in front of Consul that counts what comes back on the wire."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster.servers.ports import free_port


class CountingProxy:
    """Passes everything on to the loopback *port*."""

    def __init__(self, port: int) -> None:
        self.bytes_back = 0
        self._port = port

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Listen at the address that is yielded."""
        port = free_port()
        async with await asyncio.start_server(self._serve, "127.0.0.1", port):
            yield f"http://127.0.0.1:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.suppress(OSError):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, back, counts=False))
                group.create_task(self._carry(there, writer, counts=True))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counts: bool) -> None:
        try:
            while data := await source.read(65536):
                self.bytes_back += len(data) if counts else 0
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

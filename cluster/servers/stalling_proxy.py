"""A proxy before a registry that lets so much through and then holds everything back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster.servers.ports import free_port


class StallingProxy:
    """
    A proxy at loopback `port` before a registry at *target*, which stops forwarding after *budget* bytes in all.

    Connections stay open meanwhile; after `open` all goes through. `is_dry` is set once something is held back.
    """

    def __init__(self, target: int, budget: int) -> None:
        self._target = target
        self._left = budget
        self._opened = asyncio.Event()
        self.port = free_port()
        self.is_dry = asyncio.Event()

    def open(self) -> None:
        """Let everything through from here on."""
        self._opened.set()

    def close(self, budget: int) -> None:
        """Let *budget* further bytes through, then nothing."""
        self._left = budget
        self._opened.clear()
        self.is_dry.clear()

    async def serve(self) -> None:
        """Serve until cancelled."""
        async with await asyncio.start_server(self._forward, "127.0.0.1", self.port) as server:
            await server.serve_forever()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, up_writer, is_counted=False))
                group.create_task(self._pump(up_reader, writer, is_counted=True))
        except* (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            up_writer.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_counted: bool) -> None:
        while data := await reader.read(16384):
            if is_counted:
                # About 4 MB/s: the daemon tells its progress every 100 ms only.
                await asyncio.sleep(0.004)
                self._left -= len(data)
                if self._left < 0:
                    self.is_dry.set()
                    await self._opened.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def stalling_proxy(target: int, budget: int) -> AsyncIterator[StallingProxy]:
    """Run a stalling proxy until the context ends."""
    made = StallingProxy(target, budget)
    task = asyncio.create_task(made.serve())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])

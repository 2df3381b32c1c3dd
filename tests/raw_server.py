"""A TCP server that answers by hand, byte for byte, and leaves no connection behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_ROUNDS_TO_ACCEPT = 3
"""Of the event loop, from the accepted socket to the first line of what serves it."""


@asynccontextmanager
async def raw_server(
    serve: Serve, host: str = "127.0.0.1", port: int = 0, *, ssl: SSLContext | None = None
) -> AsyncIterator[int]:
    """
    Run *serve* for each connection and yield the port; a connection is closed when *serve* returns.

    At the end what still serves is cancelled, and every connection has been closed: one that asyncio alone closes
    outlives its test, and fails the next one as a resource that was not closed.
    """
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_run(serve, reader, writer))
        serving.add(task)

    server = await asyncio.start_server(accept, host, port, ssl=ssl)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for _ in range(_ROUNDS_TO_ACCEPT):
            await asyncio.sleep(0)
        for task in serving:
            task.cancel()
        ends = await asyncio.gather(*serving, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


async def _run(serve: Serve, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

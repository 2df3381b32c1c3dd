"""Listening on the agent's loopback port: taken before the loops begin, so that a second agent ends there."""

import os

from aiohttp import web

from agent.core.model.errors import FatalError

CLOSE_S = 0.5
"""Time for answers under way at the end."""


async def listen(app: web.Application, port: int) -> web.AppRunner:
    """
    Serve *app* on 127.0.0.1; the caller cleans the runner up.

    Raises:
        FatalError: the port cannot be had.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    except OSError as exc:
        await runner.cleanup()
        why = os.strerror(exc.errno) if exc.errno else str(exc)
        raise FatalError(f"api.port: cannot listen on 127.0.0.1:{port}: {why}") from exc
    return runner

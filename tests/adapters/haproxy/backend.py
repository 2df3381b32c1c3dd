"""A container's stand-in behind the real HAProxy: an HTTP server on a slot's address."""

import asyncio

from aiohttp import WSMsgType, web


class Backend:
    """
    Answers every GET with its name (also as X-Version).

    /health: 200 while `healthy`, else 500. /hold: answers when `release` is set. /cached: says it may be cached.
    /ws: a WebSocket that echoes text.
    """

    def __init__(self, name: str, address: str, port: int) -> None:
        self.name = name
        self.healthy = True
        self.release = asyncio.Event()
        self._where = (address, port)
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/hold", self._hold)
        app.router.add_get("/ws", self._echo)
        app.router.add_get("/{path:.*}", self._page)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._site: web.TCPSite | None = None

    async def start(self) -> None:
        """Listen. Idempotent."""
        if self._site is None:
            if self._runner.server is None:
                await self._runner.setup()
            self._site = web.TCPSite(self._runner, *self._where)
            await self._site.start()

    async def stop(self) -> None:
        """Refuse new connections; what is open stays. Idempotent."""
        if self._site is not None:
            await self._site.stop()
            self._site = None

    async def close(self) -> None:
        """End it with all that is open."""
        self.release.set()
        await self._runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        return self._answer(200, {"Cache-Control": "public, max-age=60"} if request.path == "/cached" else {})

    async def _health(self, _: web.Request) -> web.Response:
        return self._answer(200 if self.healthy else 500, {})

    async def _hold(self, _: web.Request) -> web.Response:
        await self.release.wait()
        return self._answer(200, {})

    async def _echo(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        socket.headers["X-Version"] = self.name
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
        return socket

    def _answer(self, status: int, fields: dict[str, str]) -> web.Response:
        """Answer and close the connection."""
        response = web.Response(status=status, text=self.name, headers={"X-Version": self.name, **fields})
        response.force_close()
        return response

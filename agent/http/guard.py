"""Who may ask the agent's API: programs of this host, and no web page."""

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

HEADER = "X-Tidegate"
"""Must be sent with a POST: a browser on the host cannot be made to send it by another site."""
_PORT = re.compile(r":[0-9]*$")


@web.middleware
async def local_only(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """
    Refuse names other than loopback's (DNS rebinding), and POSTs a web page could forge.

    A request without Host (HTTP/1.0, as health checks send it) comes from no browser.
    """
    host = request.headers.get("Host")
    if host is not None and _PORT.sub("", host).lower() not in {"127.0.0.1", "localhost", "[::1]"}:
        raise web.HTTPForbidden(text="only for requests to 127.0.0.1 or localhost\n")
    if request.method == "POST" and request.headers.get(HEADER) is None:
        raise web.HTTPForbidden(text=f"a POST needs the header {HEADER}: 1\n")
    return await handler(request)

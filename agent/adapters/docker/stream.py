"""
Docker's endless answers (pull, events) as JSON lines, on a connection of their own.

aiodocker takes a lost connection for the end of such a stream and leaves the connection of a stream
that is given up open (the daemon would pull on); here the first is an error and the second is closed.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiodocker
import aiohttp

CONNECT_S = 10.0


@asynccontextmanager
async def json_lines(
    socket: str,
    method: str,
    path: str,
    *,
    params: Mapping[str, str],
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[AsyncIterator[dict[str, object]]]:
    """
    Open a stream; its connection is closed with the block, which ends the work at the daemon, too.

    Args:
        socket: ``unix:///path``.
        method: HTTP method.
        path: API path below the version, such as ``images/create``.
        params: query parameters.
        headers: further headers.

    Raises:
        aiodocker.DockerError: the daemon refused, by status (also in mid-stream: status 0).
        aiohttp.ClientError: no connection, or it was lost.
    """
    connector = aiohttp.UnixConnector(socket.removeprefix("unix://"), force_close=True)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    async with aiohttp.ClientSession("http://docker", connector=connector, timeout=timeout) as session:
        async with session.get("/version") as response:
            version = (await response.json())["ApiVersion"]
        url = f"/v{version}/{path}"
        async with session.request(method, url, params=params, headers=headers) as response:
            if response.status >= 400:
                raise aiodocker.DockerError(response.status, _text(await response.text()))
            yield _lines(response)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, object]]:
    while line := await response.content.readline():
        item = json.loads(line)
        if not isinstance(item, dict):
            continue
        if "error" in item:
            raise aiodocker.DockerError(0, str(item["error"]))
        yield item


def _text(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip()

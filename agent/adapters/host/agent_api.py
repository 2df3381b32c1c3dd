"""Ask the agent of this host over its loopback API."""

import asyncio
import json
import os
from typing import Any

import aiohttp

from agent.core.model.errors import TransientError

DEADLINE_S = 10.0
_QUOTE_MAX_BYTES = 500


def ask(port: int, method: str, path: str) -> Any:
    """
    Send one request to the agent and return its JSON answer.

    Raises:
        TransientError: no agent listens there, it does not answer in time, or it is none; says what to do.
    """
    url = f"http://127.0.0.1:{port}{path}"
    try:
        return asyncio.run(_ask(method, url))
    except TimeoutError as exc:
        raise TransientError(_no_answer(url, f"not within {DEADLINE_S:.0f} s")) from exc
    except OSError as exc:
        raise TransientError(_no_answer(url, os.strerror(exc.errno) if exc.errno else str(exc))) from exc
    except (aiohttp.ClientError, ValueError) as exc:
        raise TransientError(f"what answers at {url} is no Tidegate agent (--api-port names another port)") from exc


async def _ask(method: str, url: str) -> Any:
    # Not through http_proxy, which aiohttp leaves alone by itself: the agent is on this host.
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session,
        session.request(method, url, headers={"X-Tidegate": "1"}) as reply,
    ):
        if reply.status >= 400:
            text = (await reply.content.read(_QUOTE_MAX_BYTES)).decode(errors="replace").strip()
            raise TransientError(f"the agent at {url} answered {reply.status}: {text}")
        return json.loads(await reply.read())


def _no_answer(url: str, reason: str) -> str:
    return f"no agent answers at {url} ({reason}); is `tidegate agent` running?"

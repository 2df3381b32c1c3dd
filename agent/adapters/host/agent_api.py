"""Ask the agent of this host over its loopback API."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from agent.core.model.errors import TransientError

DEADLINE_S = 10.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Whatever ``http_proxy`` says: the agent is on this host."""


def ask(port: int, method: str, path: str) -> Any:
    """
    Send one request to the agent and return its JSON answer.

    Raises:
        TransientError: no agent listens there, it does not answer in time, or it is none; says what to do.
    """
    url = f"http://127.0.0.1:{port}{path}"
    request = urllib.request.Request(url, method=method, headers={"X-Tidegate": "1"})
    try:
        with _DIRECT.open(request, timeout=DEADLINE_S) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as exc:
        with exc:
            words = exc.read(500).decode(errors="replace").strip()
        raise TransientError(f"the agent at {url} answered {exc.code}: {words}") from exc
    except (http.client.HTTPException, ValueError) as exc:
        raise TransientError(f"what answers at {url} is no Tidegate agent (--api-port names another port)") from exc
    except OSError as exc:
        reason = getattr(exc, "reason", exc)
        raise TransientError(f"no agent answers at {url} ({reason}); is `tidegate agent` running?") from exc

"""Ask the agent of this host over its loopback API."""

import json
import urllib.error
import urllib.request
from typing import Any

from agent.core.errors import TransientError

DEADLINE_S = 10.0


def ask(port: int, method: str, path: str) -> Any:
    """
    Send one request to the agent and return its JSON answer.

    Raises:
        TransientError: no agent listens there, or it does not answer in time; says what to do.
    """
    url = f"http://127.0.0.1:{port}{path}"
    request = urllib.request.Request(url, method=method, headers={"X-Tidegate": "1"})
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as reply:  # noqa: S310 - as above
            return json.load(reply)
    except urllib.error.HTTPError as exc:
        raise TransientError(
            f"the agent at {url} answered {exc.code}: {exc.read(500).decode(errors='replace')}"
        ) from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        raise TransientError(f"no agent answers at {url} ({reason}); is `tidegate agent` running?") from exc

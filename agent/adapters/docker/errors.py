"""Deadlines for Docker calls, and the translation of what goes wrong in them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiodocker
import aiohttp

from agent.core.model.app import App
from agent.core.model.errors import AddressTakenError, DockerRefusedError, DockerUnavailableError
from agent.core.model.names import SlotName

NO_CONNECTION = 900
"""The status aiodocker makes up for 'cannot connect'."""
_SHORTEST_SECRET = 4
"""Shorter values (``1``, ``yes``) are no secrets, and hiding them would garble every message."""


@asynccontextmanager
async def deadline(what: str, timeout_s: float) -> AsyncIterator[None]:
    """
    Bound the body and translate its errors.

    Args:
        what: the call in words, for the message.
        timeout_s: seconds the body may take.

    Raises:
        DockerUnavailableError: no connection, no answer in time, a cut connection, a 5xx.
        DockerRefusedError: a 4xx; the message is the daemon's own.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as exc:
        raise DockerUnavailableError(f"Docker: {what}: no answer within {timeout_s:g}s") from exc
    except aiodocker.DockerError as exc:
        raise translated(what, exc) from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise DockerUnavailableError(f"Docker: {what}: {str(exc) or type(exc).__name__}") from exc


def translated(what: str, exc: aiodocker.DockerError) -> DockerUnavailableError | DockerRefusedError:
    """Return our error for *exc*: 4xx is refused, all else is unavailable."""
    text = exc.message.strip() or f"status {exc.status}"
    if 400 <= exc.status < 500:
        return DockerRefusedError(f"Docker: {what}: {text}")
    return DockerUnavailableError(f"Docker: {what}: {text}")


def address_taken(app: App, slot: SlotName, refusal: DockerRefusedError) -> AddressTakenError | None:
    """Return what to say instead when a start was refused because the address of *slot* has another holder."""
    if "address already in use" not in str(refusal).lower():
        return None
    return AddressTakenError(
        f"address {app.address(slot)} of slot {slot} is in use: another container on Docker network "
        f"{app.network_name} has it; move or remove that one"
    )


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return *text* with every secret of four characters or more replaced by asterisks."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text

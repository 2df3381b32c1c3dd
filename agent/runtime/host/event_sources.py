"""Tasks that only wake the reconciler: Docker's events, and a HAProxy that answers with another worker."""

from collections.abc import Awaitable, Callable

import structlog

from agent.core.host.observed import Worker
from agent.core.model.errors import TidegateError
from agent.pacing.clock import Clock
from agent.runtime.host.observer import Observer
from agent.runtime.host.ports import DockerPort
from agent.runtime.wake import WakeSignal

log = structlog.get_logger()
HAPROXY_POLL_S = 1.0
"""HAProxy sends no event when it restarts; one `show info` takes 0.04 ms, as measured."""
RECONNECT_S = 1.0


async def follow_docker(
    docker: DockerPort, observer: Observer, wake: WakeSignal, clock: Clock, *, reconnect_s: float = RECONNECT_S
) -> None:
    """Wake at each event of our containers; while the stream is away every look lists them anew."""
    is_away = False
    while True:
        try:
            async for event in docker.events():
                if is_away and event == "connected":
                    log.info("docker.returned")
                    is_away = False
                observer.containers_changed()
                wake.call(f"docker {event}")
        except TidegateError as exc:
            if not is_away:
                log.warning("docker.lost", error=str(exc))
            is_away = True
            observer.containers_changed()
            wake.call("docker lost")
        await clock.sleep(reconnect_s)


async def follow_haproxy(
    ask: Callable[[], Awaitable[Worker]], wake: WakeSignal, clock: Clock, *, poll_s: float = HAPROXY_POLL_S
) -> None:
    """Wake when HAProxy's worker changes, goes away or comes back."""
    known: Worker | None = None
    was_asked = False
    while True:
        try:
            worker: Worker | None = await ask()
        except TidegateError as exc:
            worker = None
            if known is not None or not was_asked:
                log.warning("haproxy.lost", error=str(exc))
        if was_asked and worker != known:
            if worker is not None:
                log.info("haproxy.started", pid=worker.pid)
            wake.call("haproxy")
        known, was_asked = worker, True
        await clock.sleep(poll_s)

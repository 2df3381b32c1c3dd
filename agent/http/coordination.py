"""The API of an agent without apps: ``/healthz``, ``/readyz``, ``/metrics``, and ``/v1/coordination``."""

from collections.abc import Callable, Sequence

from aiohttp import web

from agent.core.model.durations import format_duration
from agent.http.api import STALE_AFTER_S
from agent.http.coordination_document import coordination_document
from agent.http.guard import local_only
from agent.http.metrics import render_coordination
from agent.pacing.clock import Clock
from agent.runtime.fleet.coordinator import CoordinatorView

Views = Callable[[], Sequence[CoordinatorView]]


def make_coordinator_app(views: Views, ticked_at: Callable[[], float], clock: Clock) -> web.Application:
    """Build the API of an agent without apps."""

    async def healthz(_: web.Request) -> web.Response:
        age = clock.now() - ticked_at()
        if age > STALE_AFTER_S:
            return web.Response(status=503, text=f"the loop has not ticked for {format_duration(age)}\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        names = ", ".join(view.app for view in views())
        return web.Response(text=f"coordinates {names}; takes no traffic\n")

    async def metrics(_: web.Request) -> web.Response:
        text = render_coordination(views(), clock.now() - ticked_at())
        return web.Response(text=text, content_type="text/plain", charset="utf-8")

    async def coordination(_: web.Request) -> web.Response:
        return web.json_response(coordination_document(views()))

    app = web.Application(middlewares=[local_only])
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    app.add_routes([web.get("/v1/coordination", coordination)])
    return app

"""
The agent's own HTTP API, on loopback only.

``GET /healthz`` the process and its loop are alive · ``GET /readyz`` the host takes traffic · ``GET /v1/status``
the report as JSON · ``GET /v1/plan`` what it would do now · ``GET /metrics`` Prometheus ·
``GET /v1/coordination`` what it coordinates · ``POST /v1/leave`` and ``POST /v1/return`` take the host out of traffic
and back.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from agent.core.host.build_report import HostView
from agent.core.model.report import NodeReport
from agent.http.coordination_document import coordination_document
from agent.http.guard import local_only
from agent.http.metrics import render
from agent.pacing.clock import Clock, SystemClock
from agent.runtime.fleet.coordinator import CoordinatorView

STALE_AFTER_S = 60.0
"""A loop that has not ticked for this long is not alive: it ticks at least every half minute."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the API gets its answers."""

    report: Callable[[], NodeReport | None]
    view: Callable[[], HostView | None]
    preview: Callable[[], Awaitable[HostView]]
    ticked_at: Callable[[], float]
    set_leaving: Callable[[bool], None]
    clock: Clock = field(default_factory=SystemClock)
    coordination: Callable[[], Sequence[CoordinatorView]] = tuple
    """What it coordinates; nothing by default."""


def make_app(source: Source) -> web.Application:
    """Build the API over *source*."""
    app = web.Application(middlewares=[local_only])
    handlers = _Handlers(source)
    app.add_routes(
        [
            web.get("/v1/coordination", handlers.coordination),
            web.get("/healthz", handlers.healthz),
            web.get("/readyz", handlers.readyz),
            web.get("/v1/status", handlers.status),
            web.get("/v1/plan", handlers.plan),
            web.get("/metrics", handlers.metrics),
            web.post("/v1/leave", handlers.leave),
            web.post("/v1/return", handlers.come_back),
        ],
    )
    return app


@dataclass(frozen=True, slots=True)
class _Handlers:
    source: Source

    async def healthz(self, _: web.Request) -> web.Response:
        age = self.source.clock.now() - self.source.ticked_at()
        if age > STALE_AFTER_S:
            return web.Response(status=503, text=f"the loop has not ticked for {age:.0f} s\n")
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        report = self.source.report()
        if report is None:
            return web.Response(status=503, text="no look at the host was made yet\n")
        return web.Response(status=200 if report.is_ready else 503, text=f"{report.summary}\n")

    async def status(self, _: web.Request) -> web.Response:
        report = self.source.report()
        if report is None:
            return web.json_response({"error": "no look at the host was made yet"}, status=503)
        return web.Response(text=report.model_dump_json(), content_type="application/json")

    async def plan(self, _: web.Request) -> web.Response:
        view = await self.source.preview()
        plan = view.plan
        return web.json_response(
            {
                "actions": [str(action) for action in plan.actions],
                "slots": {slot: {"phase": shown.phase, "reason": shown.reason} for slot, shown in plan.views.items()},
                "notes": plan.notes,
                "look_again_in_s": round(max(0.0, plan.look_again_at - self.source.clock.now()), 3),
            },
        )

    async def coordination(self, _: web.Request) -> web.Response:
        return web.json_response(coordination_document(self.source.coordination()))

    async def metrics(self, _: web.Request) -> web.Response:
        age_s = self.source.clock.now() - self.source.ticked_at()
        text = render(self.source.view(), self.source.report(), self.source.coordination(), age_s)
        return web.Response(text=text, content_type="text/plain", charset="utf-8")

    async def leave(self, _: web.Request) -> web.Response:
        self.source.set_leaving(True)
        return web.json_response({"leaving": True})

    async def come_back(self, _: web.Request) -> web.Response:
        self.source.set_leaving(False)
        return web.json_response({"leaving": False})

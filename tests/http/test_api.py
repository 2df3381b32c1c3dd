"""The agent's own API over a real loopback socket."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from agent.core.host.build_report import HostView
from agent.core.model.names import SlotName
from agent.core.model.report import NodeReport
from agent.core.model.states import SlotPhase
from agent.http.api import Source, make_app
from agent.http.metrics import render
from tests.runtime.host.rig import World, agent

pytest_plugins = ["tests.runtime.host.fixtures"]


@dataclass
class Api:
    """A server over a source that can be changed."""

    port: int

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        """Return status and body."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers) as reply,
        ):
            return reply.status, await reply.text()


@asynccontextmanager
async def serving(source: Source) -> AsyncIterator[Api]:
    runner = web.AppRunner(make_app(source), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Api(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving_host(at: World) -> AsyncIterator[tuple[Api, NodeReport]]:
    """Serve the API of a host that serves release a."""
    async with agent(at) as host:
        await at.activate(at.push("a"))
        await host.until_in(SlotPhase.SERVING, at.push("a"))
        report = await host.until(lambda report: report.is_ready)
        reconciler = host.reconciler
        source = Source(
            report=lambda: host.reports[-1],
            view=lambda: reconciler.view,
            preview=reconciler.preview,
            ticked_at=lambda: reconciler.ticked_at,
            set_leaving=lambda leaving: reconciler.set_leaving(leaving=leaving),
        )
        async with serving(source) as api:
            yield api, report


async def _never() -> HostView:
    raise AssertionError("nobody asked for a plan")


EMPTY = Source(
    report=lambda: None, view=lambda: None, preview=_never, ticked_at=time.monotonic, set_leaving=lambda _: None
)


async def test_each_path_of_a_host_that_serves(at: World) -> None:
    """Alive, ready, the report, nothing to do, and metrics."""
    async with serving_host(at) as (api, report):
        assert await api.ask("/healthz") == (200, "ok\n")
        assert await api.ask("/readyz") == (200, f"{report.summary}\n")
        status, body = await api.ask("/v1/status")
        shown = NodeReport.model_validate_json(body)
        assert (status, shown.slots[SlotName.BLUE].phase) == (200, SlotPhase.SERVING)
        status, body = await api.ask("/v1/plan")
        assert (status, '"actions": []' in body) == (200, True)
        assert (await api.ask("/metrics"))[0] == 200
        assert (await api.ask("/nothing"))[0] == 404


async def test_a_host_leaves_and_returns(at: World) -> None:
    """`/readyz` follows what load balancers are told."""
    async with serving_host(at) as (api, _):
        assert (await api.ask("/v1/leave", "POST", **{"X-Tidegate": "1"}))[0] == 200
        await _until(api, 503)
        assert (await api.ask("/v1/return", "POST", **{"X-Tidegate": "1"}))[0] == 200
        await _until(api, 200)


async def _until(api: Api, wanted: int) -> None:
    until = time.monotonic() + 5
    while (await api.ask("/readyz"))[0] != wanted:
        assert time.monotonic() < until, f"/readyz did not answer {wanted} within 5 s"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8405", "127.0.0.1.evil.example", "[::2]:80", ""])
async def test_other_host_names_are_refused(host: str) -> None:
    """DNS rebinding: a page whose name suddenly means 127.0.0.1 is still called by its name."""
    async with serving(EMPTY) as api:
        assert (await api.ask("/healthz", Host=host))[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "LOCALHOST", "[::1]", "[::1]:8405"])
async def test_names_of_loopback_are_served(host: str) -> None:
    """With a port or without."""
    async with serving(EMPTY) as api:
        assert (await api.ask("/healthz", Host=host))[0] == 200


async def test_a_health_check_without_host_is_served() -> None:
    """HTTP/1.0 as load balancers check; no browser leaves the name out."""
    async with serving(EMPTY) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        async with asyncio.timeout(5):
            writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert (await reader.readline()).split()[1] == b"200"
        writer.close()


@pytest.mark.parametrize("path", ["/v1/leave", "/v1/return"])
async def test_a_post_without_the_header_is_refused(path: str) -> None:
    """A form on another site can send a POST, but no header of its own choice."""
    left: list[bool] = []
    async with serving(replace(EMPTY, set_leaving=left.append)) as api:
        status, body = await api.ask(path, "POST")
        assert (status, left) == (403, [])
        assert "X-Tidegate" in body
        assert (await api.ask(path))[0] == 405


async def test_before_the_first_look_nothing_is_claimed() -> None:
    """Alive, not ready, no status; metrics say how long it takes."""
    async with serving(EMPTY) as api:
        assert (await api.ask("/healthz"))[0] == 200
        assert (await api.ask("/readyz"))[0] == 503
        assert (await api.ask("/v1/status"))[0] == 503
        assert (await api.ask("/metrics"))[0] == 200


async def test_a_loop_that_stands_still_is_not_alive() -> None:
    """Told with the time it has stood."""
    async with serving(replace(EMPTY, ticked_at=lambda: time.monotonic() - 90)) as api:
        assert await api.ask("/healthz") == (503, "the loop has not ticked for 90 s\n")


def samples(text: str) -> Mapping[str, dict[tuple[str, ...], float]]:
    """Parse metrics as Prometheus does: values by name and by label values, in the order of the labels' names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            key = tuple(sample.labels[label] for label in sorted(sample.labels))
            assert key not in values, f"{sample.name}{key} is there twice"
            values[key] = sample.value
    return found


async def test_metrics_are_what_prometheus_reads(at: World) -> None:
    """Phases, readiness, systems, releases and requests of a host that serves."""
    async with serving_host(at) as (api, report):
        found = samples((await api.ask("/metrics"))[1])
    assert found["tidegate_ready"] == {("shop",): 1}
    assert found["tidegate_system_up"] == {("shop", system): 1 for system in ("consul", "docker", "haproxy")}
    assert found["tidegate_slot_phase"]["shop", "serving", "blue"] == 1
    assert sum(found["tidegate_slot_phase"].values()) == len(SlotName)
    assert found["tidegate_slot_waiting"] == {("shop", "blue"): 0, ("shop", "green"): 0}
    blue = report.slots[SlotName.BLUE]
    assert found["tidegate_slot_release_info"] == {("shop", blue.image, blue.release, "blue"): 1}
    assert found["tidegate_slot_open_requests"] == {("shop", "blue"): 0, ("shop", "green"): 0}
    assert found["tidegate_haproxy_old_workers"] == {("shop",): 0}
    assert 0 <= found["tidegate_tick_age_seconds"][()] < 60


async def test_what_a_slot_waits_for_is_told_without_countdowns(at: World) -> None:
    """Times and progress as labels would be a new series each second; the status has them."""
    async with agent(at) as host:
        at.daemon.pulls_stall = True
        await at.activate(at.push("a"))
        report = await host.until(lambda report: "62 %" in report.slots[SlotName.BLUE].reason)
        text = render(host.reconciler.view, report, (), 1.5)
    found = samples(text)
    assert found["tidegate_slot_waiting"] == {("shop", "blue"): 1, ("shop", "green"): 0}
    assert "62 %" not in text
    ((told, one),) = found["tidegate_slot_wait_info"].items()
    assert (told[0], told[2], one) == ("shop", "blue", 1)
    assert told[1].startswith("pulling registry.local")
    assert "N" in told[1]


async def test_what_the_host_waits_for_is_told(at: World) -> None:
    """The error of a tick and the notes, each once, cut and without numbers that pass."""
    async with agent(at) as host:
        await at.activate(at.push("a"))
        report = await host.until_in(SlotPhase.SERVING, at.push("a"))
        told = [
            "Consul: no answer within 5s: going by the journal, confirmed 1h3m ago",
            "Consul: no answer within 2s: going by the journal, confirmed 3m20s ago",
            "stage/image: registry:5000/shop:1.2.3 is kept",
            "blue: container exited with code 137, start 4 in 12.5s",
            "GET /health answered 500; 1,234 of 30 GB; attempt 2 in 8s",
            "x" * 5000,
        ]
        text = render(
            host.reconciler.view, report.model_copy(update={"notes": tuple(told[1:]), "error": told[0]}), (), 0
        )
    assert {reason for _, reason in samples(text)["tidegate_note_info"]} == {
        "Consul: no answer within N: going by the journal, confirmed N ago",
        "stage/image: registry:5000/shop:1.2.3 is kept",
        "blue: container exited with code 137, start N in N",
        "GET /health answered 500; N of N; attempt N in N",
        "x" * 200,
    }


async def test_metrics_without_haproxy_leave_out_what_is_unknown(at: World) -> None:
    """Unknown is not 0."""
    at.haproxy.away = True
    async with agent(at) as host:
        report = await host.until(lambda report: report.gate is None)
        found = samples(render(host.reconciler.view, report, (), 0))
    assert found["tidegate_system_up"]["shop", "haproxy"] == 0
    assert "tidegate_slot_open_requests" not in found

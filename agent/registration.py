"""How an agent shows itself in Consul: its client, its report, and its services."""

import asyncio
import ssl
from typing import NoReturn

import structlog

from agent.adapters.consul.kv import ConsulClient
from agent.adapters.consul.services import agent_service, app_service, register_service
from agent.adapters.consul.transport import TokenSource
from agent.config import ConsulSettings, Settings
from agent.core.host.build_report import Identity
from agent.core.model.errors import FatalError, TidegateError
from agent.core.model.keys import node_report
from agent.core.model.report import NodeReport
from agent.runtime.host.reporter import AGAIN_EVERY_S, RETRY_FIRST_S, RETRY_MAX_S

log = structlog.get_logger()


def make_consul(settings: ConsulSettings) -> ConsulClient:
    """
    Make a client by the settings.

    Raises:
        FatalError: a certificate or key cannot be used.
    """
    token = TokenSource(settings.token.get_secret_value(), file=settings.token_file)
    tls: ssl.SSLContext | None = None
    try:
        if settings.address.startswith("https://"):
            tls = ssl.create_default_context(cafile=settings.ca_file)
            if settings.cert_file is not None:
                tls.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ssl.SSLError) as exc:
        raise FatalError(f"consul.ca_file, cert_file or key_file: {exc}") from exc
    return ConsulClient(settings.address, token=token, tls=tls)


async def write_report(consul: ConsulClient, settings: Settings, report: NodeReport) -> None:
    """Write the host's report; errors as of a put."""
    key = node_report(settings.app.name, settings.node)
    await consul.put(key, report.model_dump_json(exclude_defaults=True).encode())


async def register_host(consul: ConsulClient, settings: Settings, report: NodeReport) -> None:
    """Register the app on this host, and its agent; errors as of a registration."""
    app, node = settings.app, settings.node
    serving = next(((slot, shown) for slot, shown in report.slots.items() if shown.is_up), None)
    meta = _meta(report.instance, report.agent, report.zone, report.machine)
    if serving is not None:
        slot, shown = serving
        meta |= {"slot": str(slot), "release": shown.release, "image": shown.image}
    host = "127.0.0.1" if app.bind.is_unspecified else str(app.bind)
    check = f"http://{host}:{app.port}/_lb/{app.name}"
    await register_service(consul, app_service(app.name, node, app.port, check, meta))
    await _register_agent(consul, settings, meta | {"app": app.name})


async def keep_registered(consul: ConsulClient, settings: Settings, identity: Identity) -> NoReturn:
    """Register an agent without apps, again and again: a local Consul agent may lose its data."""
    pause_s, is_failing = RETRY_FIRST_S, False
    while True:
        try:
            meta = _meta(identity.instance, identity.agent, identity.zone, identity.machine)
            await _register_agent(consul, settings, meta)
        except TidegateError as exc:
            if not is_failing:
                log.warning("report.failed", error=str(exc))
            is_failing = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)
            continue
        if is_failing:
            log.info("report.recovered")
        pause_s, is_failing = RETRY_FIRST_S, False
        await asyncio.sleep(AGAIN_EVERY_S)


async def _register_agent(consul: ConsulClient, settings: Settings, meta: dict[str, str]) -> None:
    """Register the agent; the fleet's membership and its coordinators come from what it says of itself."""
    whole = meta | {"node": settings.node} | ({"coordinator": "true"} if settings.coordinated else {})
    api = settings.api.port
    await register_service(consul, agent_service(settings.node, api, f"http://127.0.0.1:{api}/healthz", whole))


def _meta(instance: str, version: str, zone: str, machine: str) -> dict[str, str]:
    place = {"zone": zone, "machine": machine}
    return {"instance": instance, "version": version} | {key: value for key, value in place.items() if value}

"""The app's own bridge network, on which its slots have their fixed addresses."""

import asyncio
from ipaddress import ip_network
from typing import Any

import aiodocker

from agent.adapters.docker.errors import deadline
from agent.core.model.app import App
from agent.core.model.errors import DockerRefusedError
from agent.core.model.spec import LABEL_PREFIX

NETWORK_S = 30.0
RACE_LOOKS, RACE_LOOK_S = 10, 0.1


async def ensure_network(docker: aiodocker.Docker, app: App) -> None:
    """
    Create the app's network if it is missing. Idempotent, also when two do it at once.

    Raises:
        DockerRefusedError: a network of that name has another subnet, or the subnet is taken; names the setting.
        DockerUnavailableError: the daemon is away.
    """
    if await _is_there(docker, app):
        return
    try:
        async with deadline(f"create network {app.network_name}", NETWORK_S):
            await docker.networks.create(_config(app))
    except DockerRefusedError as exc:
        # Another maker's network holds its subnet a moment before it is listed.
        for _ in range(RACE_LOOKS):
            if await _is_there(docker, app):
                return
            await asyncio.sleep(RACE_LOOK_S)
        raise DockerRefusedError(f"apps.{app.name}.subnet {app.subnet}: {exc}") from exc


async def _is_there(docker: aiodocker.Docker, app: App) -> bool:
    async with deadline("list networks", NETWORK_S):
        # The filter matches parts of names, too.
        found = await docker.networks.list(filters={"name": app.network_name})
    for network in found:
        if network["Name"] != app.network_name:
            continue
        if why := _difference(network, app):
            raise DockerRefusedError(f"apps.{app.name}.subnet: Docker network {app.network_name} exists, but {why}")
        return True
    return False


def _difference(network: dict[str, Any], app: App) -> str:
    if network["Driver"] != "bridge":
        return f"its driver is {network['Driver']}, not bridge"
    ranges = (network.get("IPAM") or {}).get("Config") or []
    if not any(ip_network(entry["Subnet"]) == app.subnet for entry in ranges if entry.get("Subnet")):
        shown = ", ".join(entry.get("Subnet", "") for entry in ranges) or "none"
        return f"its subnet is {shown}, not {app.subnet}"
    if all(entry.get("Gateway") not in (None, "", str(app.gateway)) for entry in ranges):
        return f"its gateway is not {app.gateway}"
    return ""


def _config(app: App) -> dict[str, Any]:
    return {
        "Name": app.network_name,
        "Driver": "bridge",
        # Daemons of before API 1.44 would make a second network of the same name.
        "CheckDuplicate": True,
        "IPAM": {"Config": [{"Subnet": str(app.subnet), "Gateway": str(app.gateway)}]},
        "Labels": {f"{LABEL_PREFIX}app": app.name},
    }

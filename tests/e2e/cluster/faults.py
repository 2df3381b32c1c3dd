"""What may happen to a cluster in mid-rollout, one at a time: how it strikes, and how it ends."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cluster.cluster import Cluster
from cluster.machine import Machine, until_ready

Deed = Callable[[Cluster, Machine], Awaitable[object]]


async def _nothing(_: Cluster, __: Machine) -> None:
    """It ends by itself."""


ON_THE_WAY_UP = "restarting|starting|checking"
"""What a host that has just booted may be seen to do."""


@dataclass(frozen=True, slots=True)
class Disaster:
    """
    One of them; `inject` returns when it has happened, `end` undoes it.

    The machine is the host that has not switched yet: its agent is frozen until it is thawed or dies.
    """

    name: str
    inject: Deed
    end: Deed = _nothing
    lasts_s: float = 2.0
    is_deadly: bool = False
    """What the host held at that moment is lost; no more than that."""
    status: tuple[int, str] = (0, "WEB +(staged|serving|draining|gone)")
    """How ``tidegate status`` ends meanwhile, and a pattern of what it says; WEB is the host."""


async def _kill_agent(_: Cluster, web: Machine) -> None:
    await web.systemctl("kill", "--signal=KILL", "tidegate-agent")


async def _expire(_: Cluster, web: Machine) -> None:
    """Leave it frozen: the watchdog, set to seconds here, ends it."""
    assert "watchdog" not in await web.shell("systemctl show -p Result tidegate-agent")


async def _reboot(_: Cluster, web: Machine) -> None:
    await web.thaw()
    await web.reboot()


async def _cut_power(_: Cluster, web: Machine) -> None:
    await web.cut_power()


async def _restore_power(_: Cluster, web: Machine) -> None:
    await web.power_on()


async def _part(cluster: Cluster, web: Machine) -> None:
    await web.part_from(cluster.consul_addresses)
    await web.thaw()


async def _rejoin(cluster: Cluster, web: Machine) -> None:
    await web.rejoin(cluster.consul_addresses)


async def _kill_leader(cluster: Cluster, _: Machine) -> None:
    async with cluster.consul() as consul:
        leader = await consul.leader()
    for server in cluster.servers():
        if server.address == leader:
            await server.cut_power()


async def _kill_servers(cluster: Cluster, _: Machine) -> None:
    await asyncio.gather(*(server.cut_power() for server in cluster.servers()))


async def _bring_servers(cluster: Cluster, web: Machine) -> None:
    await asyncio.gather(*(server.power_on() for server in cluster.servers()))
    await web.thaw()


async def _restart_docker(_: Cluster, web: Machine) -> None:
    await web.run("systemctl", "restart", "docker", timeout_s=60)
    await web.thaw()


async def _restart_haproxy(_: Cluster, web: Machine) -> None:
    await web.run("systemctl", "restart", "haproxy", timeout_s=60)
    await web.thaw()


async def _stop_registry(cluster: Cluster, _: Machine) -> None:
    await cluster.machine("registry").cut_power()


async def _start_registry(cluster: Cluster, web: Machine) -> None:
    await web.thaw()
    await until_ready(web)
    await cluster.machine("registry").power_on()


_GONE = (0, "WEB +gone .*its agent is not seen alive")
_DARK = (1, "Consul at https://")
FaultSequence = Sequence[Disaster]

FAULT_SEQUENCES: Sequence[FaultSequence] = (
    (
        Disaster("the agent is killed", _kill_agent),
        Disaster("the host is parted from Consul", _part, _rejoin, lasts_s=15, status=_GONE),
        Disaster("the host loses power", _cut_power, _restore_power, is_deadly=True, status=_GONE),
    ),
    (
        Disaster("Docker restarts on the host", _restart_docker),
        Disaster("HAProxy restarts on the host", _restart_haproxy, is_deadly=True),
        Disaster("the host reboots", _reboot, status=(0, f"WEB +(leaving|gone|{ON_THE_WAY_UP}|serving|draining)")),
    ),
    (
        Disaster("the watchdog ends a frozen agent", _expire, lasts_s=12),
        Disaster("Consul's leader dies", _kill_leader, _bring_servers, lasts_s=10),
        Disaster("the registry is down", _stop_registry, _start_registry),
    ),
    (Disaster("all Consul servers are down for 60 s", _kill_servers, _bring_servers, lasts_s=60, status=_DARK),),
)
"""What happens to one rollout, one after the other, each another host."""
DISASTERS: Sequence[Disaster] = tuple(disaster for fault_sequence in FAULT_SEQUENCES for disaster in fault_sequence)

"""
The local cluster for a person: ``make cluster``, ``make cluster-scale N=5``, ``make cluster-down``.

A Docker daemon that runs keeps the cluster after this program has ended. Where this program had to start one, it
stays in the foreground, and Ctrl-C removes the cluster and the daemon.
"""

import argparse
import asyncio
import signal
import sys
import time

from cluster.cluster import Cluster, find, home_of, make
from cluster.guide import tell
from cluster.servers.dockerd import daemon_runs, docker_daemon
from cluster.servers.tools import LabError
from cluster.settings import AppPlan

PROJECT = "tidegate"
KNOBS = {
    "min_healthy_time": "3s",
    "bake_time": "20s",
    "visit_idle": "1m",
    "drain_timeout": "5m",
    "healthy_deadline": "30s",
    "stop_grace_period": "5s",
}
"""For a person to watch: not as short as in tests."""


async def up(count: int) -> None:
    """Bring it up with *count* web hosts, and the test app's images in its registry."""
    stays = await daemon_runs()
    async with docker_daemon() as docker:
        began_at = time.monotonic()
        print("building the machines where they are not there yet, then starting them", file=sys.stderr)
        cluster = await make(docker, PROJECT, AppPlan(knobs=KNOBS))
        try:
            await cluster.up(count)
            images = cluster.images()
            for version in ("a", "b"):
                await images.testapp(version)
            await images.testapp("bad", env={"UNHEALTHY": "1", "LOG": "1"})
        except BaseException:
            await cluster.down()
            raise
        print(f"up after {time.monotonic() - began_at:.0f} s\n")
        tell(cluster)
        if not stays:
            await _hold(cluster)


async def scale(count: int) -> None:
    """Have *count* web hosts."""
    async with docker_daemon() as docker:
        new = await find(docker, PROJECT).scale(count)
        print(f"{count} web hosts; new: {', '.join(web.name for web in new) or 'none'}")


async def down() -> None:
    """Remove it."""
    if not home_of(PROJECT).exists():
        print("there is no cluster")
        return
    async with docker_daemon() as docker:
        await find(docker, PROJECT).down()
    print("removed: machines, network, volumes, secrets (the images stay for the next time)")


async def _hold(cluster: Cluster) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    print("\nThe Docker daemon was started for this: Ctrl-C here stops it, and removes the cluster.", flush=True)
    await stopped.wait()
    await cluster.down()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster", description="The local cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "scale"):
        commands.add_parser(name).add_argument("count", type=int, nargs="?", default=3, choices=range(1, 10))
    commands.add_parser("down")
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "up":
                asyncio.run(up(arguments.count))
            case "scale":
                asyncio.run(scale(arguments.count))
            case _:
                asyncio.run(down())
    except LabError as exc:
        print(f"cluster: {exc}", file=sys.stderr)
        sys.exit(2)
    except BaseExceptionGroup as group:
        known, others = group.split(LabError)
        if others is not None or known is None:
            raise
        print(f"cluster: {known.exceptions[0]}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

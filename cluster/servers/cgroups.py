"""
What a machine in a container leaves behind on a host with cgroup v1: hierarchies that nobody has mounted.

systemd makes every hierarchy the kernel has, those of net_cls, perf_event and hugetlb, too. Where the host never
mounted them they stay without a mount when the machine is gone, and then the Docker Engine cannot tell any more whether
a container was killed for its memory ("cannot find cgroup mount destination"). Empty, mounted once and unmounted, a
hierarchy is gone. With cgroup v2, or systemd on the host, there is nothing to do.
"""

import asyncio
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from cluster.servers.process import eventually
from cluster.servers.tools import LabError, run

DEADLINE_S = 10.0


def unmounted() -> tuple[str, ...]:
    """Return the controllers of each hierarchy that exists without a mount."""
    mounted = {
        frozenset(line.rsplit(" ", 1)[1].split(",")) - {"rw", "ro"}
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - cgroup " in line
    }
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    named = [line.split(":")[1] for line in lines if line.split(":")[1]]
    return tuple(names for names in named if frozenset(names.split(",")) not in mounted)


async def clear_unmounted() -> None:
    """Remove hierarchies that a cluster left behind; those still in use stay, as they do without root."""
    if os.geteuid() != 0:
        return

    async def are_gone() -> bool:
        for names in unmounted():
            await _empty(names)
        return not await asyncio.to_thread(unmounted)

    await eventually(are_gone, deadline_s=DEADLINE_S)


async def _empty(names: str) -> None:
    """Mount a hierarchy, remove its groups from the leaves up, and unmount it: the last unmount ends it."""
    home = tempfile.mkdtemp(prefix="tg-cgroup-")
    try:
        await run(["mount", "-t", "cgroup", "-o", names, "none", home], timeout_s=10)
        try:
            await asyncio.to_thread(_remove_groups, home)
        finally:
            await run(["umount", "-l", home], timeout_s=10)  # whoever looks into it just now does not hold it up
    except LabError:
        return
    finally:
        with suppress(OSError):
            await asyncio.to_thread(os.rmdir, home)


def _remove_groups(home: str) -> None:
    for directory, _, _ in os.walk(home, topdown=False):
        if directory != home:
            with suppress(OSError):  # somebody is in it
                Path(directory).rmdir()

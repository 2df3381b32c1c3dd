"""Free space where Docker keeps its images."""

import os
from pathlib import Path

from agent.core.host.observed import Disk


def disk_usage(images: Path, reserve_bytes: int) -> Disk | None:
    """
    Return the space on the file system of *images*, as far as ordinary users may fill it.

    Returns: None when it cannot be told (another host's daemon, no right to look): then nothing waits for it.
    """
    try:
        seen = os.statvfs(images)
    except OSError:
        return None
    return Disk(seen.f_bavail * seen.f_frsize, reserve_bytes)

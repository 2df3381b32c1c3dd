"""A wall clock that a test steps, for the processes that are given its environment; durations are left alone."""

import struct
from pathlib import Path
from typing import Self

from cluster.servers.tools import run

_SOURCE = Path(__file__).with_suffix(".c")


class SteppedClock:
    """Reads like the machine's clock until `step`."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.env = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(file)}
        """Environment of a process that shall go by it."""
        self.step(0)

    @classmethod
    async def make(cls, home: Path) -> Self:
        """Compile what is preloaded, into *home*."""
        library = home / "clock.so"
        await run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)], timeout_s=30)
        return cls(library, home / "clock")

    def step(self, seconds: int) -> None:
        """Set it so far from the machine's clock, at once."""
        self._file.touch()
        with self._file.open("r+b") as shared:  # in place: who goes by it has it mapped
            shared.write(struct.pack("=q", seconds))

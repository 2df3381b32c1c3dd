"""
Run the stages of `make test`, say what each took, and hold the whole to its time budget.

Used as ``python -m tests.stages --budget-s 420 "check=make check" "fleet&=pytest ..." "real=pytest ..."``. Stages run
one after the other; one whose name ends in ``&`` runs beside those after it, on what they leave of the processors, and
is waited for at the end.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO

# A machine may be slower on a day; beyond this a suite has grown, and someone should look.
TOLERANCE = 1.5


def main() -> int:
    """Run every stage up to the first that fails; return its exit status, or 1 over budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget-s", type=float, required=True)
    parser.add_argument("stages", nargs="+", metavar="NAME=COMMAND")
    arguments = parser.parse_args()
    started = time.monotonic()
    took: list[str] = []
    failed = run_all([stage.partition("=") for stage in arguments.stages], took)
    if failed is not None:
        print(f"{', '.join(took)}: {failed.name} failed", file=sys.stderr)
        return failed.status
    whole_s = time.monotonic() - started
    print(f"{', '.join(took)}; {whole_s:.0f} s of a budget of {arguments.budget_s:.0f} s", flush=True)
    if whole_s > TOLERANCE * arguments.budget_s:
        print(f"that is more than {TOLERANCE} times the budget: failed", file=sys.stderr)
        return 1
    return 0


@dataclass
class Stage:
    """A stage under way, in a process group of its own."""

    name: str
    command: str
    out: IO[bytes] | None = None
    """What it writes to, where it runs beside others."""
    began: float = field(default_factory=time.monotonic)
    status: int = 0

    def __post_init__(self) -> None:
        nice = "" if self.out is None else "nice -n 19 "
        words = [*nice.split(), "sh", "-c", self.command]
        self.process = subprocess.Popen(words, stdout=self.out, stderr=self.out, start_new_session=self.out is not None)

    def wait(self) -> str:
        """Wait for its end; return what it took."""
        self.status = self.process.wait()
        if self.out is not None:
            self.out.seek(0)
            print(f"{self.name}:\n{self.out.read().decode(errors='replace')}", flush=True)
        return f"{self.name} {time.monotonic() - self.began:.0f} s{'' if self.out is None else ' beside them'}"

    def end(self) -> None:
        """Stop it, where it still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)


def run_all(stages: list[tuple[str, str, str]], took: list[str]) -> Stage | None:
    """Run *stages*, and note in *took* how long each lasted; return the first that failed."""
    beside: list[Stage] = []
    try:
        for name, _, command in stages:
            if name.endswith("&"):
                out = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this process
                beside.append(Stage(name.removesuffix("&"), command, out))
                continue
            stage = Stage(name, command)
            took.append(stage.wait())
            if stage.status != 0:
                return stage
        for stage in beside:
            took.append(stage.wait())
            if stage.status != 0:
                return stage
    finally:
        for stage in beside:
            stage.end()
    return None


if __name__ == "__main__":
    sys.exit(main())

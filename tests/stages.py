"""
Run the stages of `make test` one after the other, say what each took, and hold the whole to its time budget.

Used as ``python -m tests.stages --budget-s 420 "check=make check" "real=pytest ..."``.
"""

import argparse
import subprocess
import sys
import time

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
    for stage in arguments.stages:
        name, _, command = stage.partition("=")
        stage_started = time.monotonic()
        status = subprocess.run(command, shell=True, check=False).returncode
        took.append(f"{name} {time.monotonic() - stage_started:.0f} s")
        if status != 0:
            print(f"{', '.join(took)}: {name} failed", file=sys.stderr)
            return status
    whole_s = time.monotonic() - started
    print(f"{', '.join(took)}; {whole_s:.0f} s of a budget of {arguments.budget_s:.0f} s", flush=True)
    if whole_s > TOLERANCE * arguments.budget_s:
        print(f"that is more than {TOLERANCE} times the budget: failed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

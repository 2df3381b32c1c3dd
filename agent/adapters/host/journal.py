"""
The journal: the agent's memory on disk, written whole and atomically (temp file, fsync, rename), mode 0600.

Monotonic times are rebased when the host has rebooted since: what had lasted ten minutes has still lasted ten.
That it has is told by the kernel's boot id, and by a mark in ``/run``: a host that is itself a container (LXC, ours in
the local cluster) boots anew on a kernel that runs on.
A journal that cannot be read is put aside under another name, never deleted, and the agent starts without one.
"""

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.adapters.host.atomic_file import write_atomically
from agent.core.host.memory import Failure, Memory, SlotMemory
from agent.core.model.errors import TransientError
from agent.pacing.clock import Clock, SystemClock

JOURNAL_VERSION = 1
BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
_TIMES_OF_SLOT = ("busy_at", "checking_since", "drain_since", "leave_since", "restart_at")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found at start."""

    memory: Memory
    problem: str = ""
    """Why the journal was not used, for an operator to read."""


def boot_id(file: Path = BOOT_FILE) -> str:
    """Return the kernel's id of this boot."""
    return file.read_text(encoding="ascii").strip()


class Journal:
    """
    One app's journal file.

    Args:
        boot_file: where the kernel says which boot this is.
        mark_file: made here where it is missing; it lies where a boot finds nothing.
    """

    def __init__(
        self,
        path: Path,
        boot_file: Path = BOOT_FILE,
        mark_file: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._path = path
        self._boot_file = boot_file
        self._clock = clock or SystemClock()
        self._mark = _mark_in(mark_file) if mark_file is not None else None
        self._written = ""

    def load(self) -> Loaded:
        """Read the memory of the process before; never raises for what the file holds."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Loaded(Memory())
        except (OSError, UnicodeDecodeError) as exc:
            return self._put_aside(f"cannot be read: {exc}")
        try:
            document: dict[str, Any] = json.loads(text)
            if document["v"] > JOURNAL_VERSION:
                return self._put_aside(f"has version {document['v']}, this agent reads {JOURNAL_VERSION}")
            memory = Memory.model_validate(document["memory"])
            if document["boot"] != boot_id(self._boot_file) or self._is_of_another_boot(document.get("mark")):
                memory = _rebased(memory, self._clock.now() - float(document["saved_at"]))
            return Loaded(memory)
        except (ValueError, KeyError, TypeError, ValidationError) as exc:
            return self._put_aside(f"is damaged ({type(exc).__name__})")

    def save(self, memory: Memory) -> bool:
        """
        Write *memory* if it differs from what was written last; return whether it was written.

        Raises:
            TransientError: it cannot be written (disk full, ...); the file holds what it held before.
        """
        content = memory.model_dump_json(by_alias=True, exclude_defaults=True)
        if content == self._written:
            return False
        document = {
            "v": JOURNAL_VERSION,
            "boot": boot_id(self._boot_file),
            "mark": self._mark,
            "saved_at": self._clock.now(),
            "memory": json.loads(content),
        }
        try:
            write_atomically(self._path, json.dumps(document))
        except OSError as exc:
            raise TransientError(f"journal {self._path} cannot be written: {exc.strerror}") from exc
        self._written = content
        return True

    def _is_of_another_boot(self, mark: str | None) -> bool:
        """Whether the marks differ; without one, as from a version that wrote none, the kernel's word is all."""
        return None not in (mark, self._mark) and mark != self._mark

    def _put_aside(self, problem: str) -> Loaded:
        aside = self._path.with_name(f"{self._path.name}.unreadable-{self._clock.wall():.6f}")
        try:
            self._path.rename(aside)
        except OSError:
            return Loaded(Memory(), f"journal {self._path} {problem}")
        return Loaded(Memory(), f"journal {self._path} {problem}; kept as {aside.name}")


def _mark_in(file: Path) -> str | None:
    """Return this boot's mark, made now where there is none; None where it cannot be."""
    try:
        if not file.exists():
            write_atomically(file, uuid.uuid4().hex)
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _rebased(memory: Memory, shift: float) -> Memory:
    """Carry times over a reboot; states of HAProxy and the holding page belong to the boot they were seen in."""
    slots = {name: _slot_rebased(slot, shift) for name, slot in memory.slots.items()}
    failures = {key: _failure_rebased(failure, shift) for key, failure in memory.failures.items()}
    of_the_boot = {"worker": None, "gate": None, "holding": False, "leaving": False, "ready_for": None}
    return memory.replace(slots=slots, failures=failures, **of_the_boot)


def _slot_rebased(slot: SlotMemory, shift: float) -> SlotMemory:
    times = {name: getattr(slot, name) + shift for name in _TIMES_OF_SLOT if getattr(slot, name) is not None}
    # What visitors have reached is started anew, and has its whole time for that.
    anew = {"checking_since": None, "restart_at": None, "restarts": 0} if slot.served else {}
    return slot.replace(**times | anew, admin=None, staged=False, running_since=None, started_at="")


def _failure_rebased(failure: Failure, shift: float) -> Failure:
    return failure.replace(at=failure.at + shift)

"""
The files Tidegate shares with HAProxy: map files, server-state file. Read at HAProxy's start, written by us only.

Each write is whole or not at all (temp file, fsync, rename). Files get mode 0640 and the group of their
directory: give the state directory to HAProxy's group where HAProxy does not read its files as root.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.core.model.errors import FatalError, PermanentError, TransientError
from agent.core.model.names import AppName, printable

# Paths are written on the runtime socket and in the configuration: nothing there may separate, quote or expand.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./+-]*")


@dataclass(frozen=True, slots=True)
class ProxyPaths:
    """
    Where HAProxy and the agent meet.

    Raises:
        FatalError: a path is relative or holds anything but letters, digits and ``_ . / + -``.
    """

    runtime_socket: Path
    """HAProxy's ``stats socket``."""
    state_dir: Path
    """Holds the map files; on disk: HAProxy does not start without them."""
    state_file: Path
    """HAProxy's ``server-state-file``; in /run: after a boot its states are meaningless."""
    master_socket: Path | None = None
    """Socket of HAProxy's master (``-S``); without it old workers cannot be counted."""

    def __post_init__(self) -> None:
        paths = {name: getattr(self, name) for name in ("runtime_socket", "state_dir", "state_file", "master_socket")}
        for name, path in paths.items():
            if path is not None and not is_plain(path):
                raise FatalError(
                    f"{name}: {printable(str(path))} must be absolute, of letters, digits, '_', '.', '/', '+' and '-'",
                )

    def pin_to_slot(self, app: AppName) -> Path:
        """Return the map file that says which slot holds a pin."""
        return self.state_dir / f"{app}-pin-to-slot.map"

    def slot_to_pin(self, app: AppName) -> Path:
        """Return the map file that says which pin a slot stamps into cookies."""
        return self.state_dir / f"{app}-slot-to-pin.map"

    def gate(self, app: AppName) -> Path:
        """Return the map file that holds the gate."""
        return self.state_dir / f"{app}-gate.map"

    def maps(self, app: AppName) -> tuple[Path, Path, Path]:
        """Return all three map files."""
        return self.pin_to_slot(app), self.slot_to_pin(app), self.gate(app)


def is_plain(path: Path) -> bool:
    """Return whether *path* can be written in a configuration and on the runtime socket as it is."""
    return _PLAIN_PATH.fullmatch(str(path)) is not None


def write_whole(path: Path, text: str) -> None:
    """
    Replace the content of *path*, durably; a reader sees the old content or the new.

    Raises:
        PermanentError: the directory is missing, or may not be written.
        TransientError: any other failure of the file system (disk full, ...).
    """
    try:
        _replace(path, text)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as exc:
        raise PermanentError(f"cannot write {path}: {exc.strerror}") from exc
    except OSError as exc:
        raise TransientError(f"cannot write {path}: {exc.strerror}") from exc


def _replace(path: Path, text: str) -> None:
    directory_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    temporary: str | None = None
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o640)
            group = os.fstat(directory_fd).st_gid
            if os.fstat(fd).st_gid != group:
                # An agent outside that group may not give files to it; HAProxy's master then reads them as root.
                with contextlib.suppress(PermissionError):
                    os.fchown(fd, -1, group)
            file.write(text)
            file.flush()
            os.fsync(fd)
        Path(temporary).replace(path)
        temporary = None
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def read_text(path: Path) -> str | None:
    """
    Return the content of *path*; None when there is no such file.

    Raises:
        TransientError: it is there and cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise TransientError(f"cannot read {path}: {exc.strerror}") from exc


def read_map(path: Path) -> tuple[tuple[str, str], ...] | None:
    """Return the entries of a map file, in order; None when there is none. Raises as :func:`read_text`."""
    text = read_text(path)
    if text is None:
        return None
    rows = (line.strip().partition(" ") for line in text.splitlines())
    return tuple((key, value.strip()) for key, _, value in rows if key and not key.startswith("#"))


def write_map(path: Path, entries: Mapping[str, str]) -> None:
    """Make a map file hold exactly *entries*; no write when it does. Raises as :func:`write_whole`."""
    if not holds(read_map(path), entries):
        write_whole(path, "".join(f"{key} {value}\n" for key, value in sorted(entries.items())))


def holds(found: Iterable[tuple[str, str]] | None, entries: Mapping[str, str]) -> bool:
    """Return whether what was *found* is exactly *entries*: nothing missing, nothing more, nothing twice."""
    return found is not None and sorted(found) == sorted(entries.items())

"""
What the agent tells systemd over ``NOTIFY_SOCKET`` (sd_notify(3)): ready, status, watchdog, stopping.

Without that variable every call does nothing. Nothing here blocks or raises: a lost message costs a line
of ``systemctl status``; a lost READY is sent again with the next message.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from typing import Self

_STATUS_MAX_CHARS = 400


class Notifier:
    """
    Sends to systemd's socket.

    Args:
        address: of the socket as systemd gives it: a path, or ``@name`` for an abstract one; empty for none.
        watchdog_s: seconds between two signs of life, half of what systemd allows; None without a watchdog.
        clock_us: CLOCK_MONOTONIC in microseconds.
    """

    def __init__(
        self,
        address: str = "",
        watchdog_s: float | None = None,
        clock_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        # Other kinds (vsock:...) are for virtual machines.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address if address[:1] == "/" else ""
        self.watchdog_s = watchdog_s
        self._clock_us = clock_us
        self._unsent_ready = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], pid: int) -> Self:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; a watchdog meant for another process is none."""
        usec, owner = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        is_watched = usec.isdecimal() and int(usec) > 0 and owner in ("", str(pid))
        return cls(environ.get("NOTIFY_SOCKET", ""), int(usec) / 2e6 if is_watched else None)

    def ready(self, status: str) -> None:
        """Say that the start, or a reload, is complete."""
        self._unsent_ready = True
        self.status(status)

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows; control characters become spaces."""
        line = "".join(char if char.isprintable() else " " for char in text)[:_STATUS_MAX_CHARS]
        self._send(f"STATUS={line}")

    def watchdog(self) -> None:
        """Give a sign of life; call it every :attr:`watchdog_s`."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Say that settings are read anew; :meth:`ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._clock_us()}")

    def stopping(self) -> None:
        """Say that the process ends."""
        self._unsent_ready = False
        self._send("STOPPING=1")

    def _send(self, *fields: str) -> None:
        if not self._address:
            return
        lines = ("READY=1", *fields) if self._unsent_ready else fields
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender,
        ):
            sender.sendto("\n".join(lines).encode("utf-8"), self._address)
            self._unsent_ready = False

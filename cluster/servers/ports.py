"""Loopback ports for servers of the lab."""

import contextlib
import random
import socket
from itertools import islice

# Below the kernel's range for outgoing connections (from 32768): under traffic one of those could take a port
# between the moment it was found free and the moment its server binds it.
_CANDIDATES = range(20_000, 32_000)
_handed_out: set[int] = set()


def free_port() -> int:
    """Return a loopback port free for TCP and UDP; never the same one twice in a process."""
    for port in islice(iter(lambda: random.choice(_CANDIDATES), None), 1000):
        if port not in _handed_out and _is_free(port):
            _handed_out.add(port)
            return port
    raise RuntimeError(f"no free port found in {_CANDIDATES}")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with contextlib.closing(socket.socket(socket.AF_INET, kind)) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True

"""What systemd receives on its notify socket: a real datagram socket, by path and abstract."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.adapters.host.systemd import Notifier


@pytest.fixture(name="address", params=["path", "abstract"])
def _address(request: pytest.FixtureRequest, haproxy_dir: Path) -> str:
    """An address as systemd would put it into NOTIFY_SOCKET."""
    return f"{haproxy_dir}/notify" if request.param == "path" else f"@tidegate-test-{os.getpid()}-{haproxy_dir.name}"


@pytest.fixture(name="manager")
def _manager(address: str) -> Iterator[socket.socket]:
    """Systemd's end."""
    with listening(address) as manager:
        yield manager


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if address.startswith("@") else address)
        manager.settimeout(5)
        yield manager


def received(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_messages_arrive(manager: socket.socket, address: str) -> None:
    """Each call is one datagram of fields."""
    notifier = Notifier(address, clock_us=lambda: 12345)
    notifier.ready("serving")
    assert received(manager) == ["READY=1", "STATUS=serving"]
    notifier.status("staging")
    assert received(manager) == ["STATUS=staging"]
    notifier.watchdog()
    assert received(manager) == ["WATCHDOG=1"]
    notifier.reloading()
    assert received(manager) == ["RELOADING=1", "MONOTONIC_USEC=12345"]
    notifier.stopping()
    assert received(manager) == ["STOPPING=1"]


def test_status_is_one_harmless_line(manager: socket.socket, address: str) -> None:
    """No text can add a field of its own or reach the terminal."""
    Notifier(address).status("pulling\nMAINPID=1\x1b[2J" + "x" * 10_000)
    fields = received(manager)
    assert len(fields) == 1
    assert fields[0].startswith("STATUS=pulling MAINPID=1 [2Jxx")
    assert len(fields[0]) < 500


def test_a_full_socket_does_not_block_and_ready_is_not_lost(manager: socket.socket, address: str) -> None:
    """Messages that find no room are dropped; READY goes with the next one that finds it."""
    notifier = Notifier(address)
    for _ in range(5000):
        notifier.watchdog()
    notifier.ready("serving")
    manager.setblocking(False)
    try:
        while True:
            assert received(manager) == ["WATCHDOG=1"]
    except BlockingIOError:
        pass
    notifier.watchdog()
    assert received(manager) == ["READY=1", "WATCHDOG=1"]


@pytest.mark.parametrize("address", ["", "vsock:2:1"])
def test_without_a_path_or_a_name_no_socket_is_opened(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, or a kind of socket that is for virtual machines: nothing is sent."""
    opened: list[object] = []
    monkeypatch.setattr(socket, "socket", lambda *kind, **_: opened.append(kind))
    notifier = Notifier(address)
    notifier.ready("serving")
    notifier.stopping()
    assert opened == []


def test_a_manager_that_is_not_there_yet_learns_of_ready_later(address: str) -> None:
    """Nobody listens: no error, and the next message that arrives brings READY along."""
    notifier = Notifier(address)
    notifier.ready("serving")
    with listening(address) as manager:
        notifier.watchdog()
        assert received(manager) == ["READY=1", "WATCHDOG=1"]


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_interval_is_half_of_what_systemd_allows(
    environ: dict[str, str], watchdog_s: float | None
) -> None:
    """As sd_watchdog_enabled(3) advises; a watchdog for another process is none of ours."""
    assert Notifier.from_environ(environ, pid=77).watchdog_s == watchdog_s

"""The command line as an operator meets it: what it prints, where, and its exit codes."""

import http.server
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli.main import cli
from agent.core.model.names import SlotName
from agent.core.model.report import NodeReport, SlotReport
from agent.core.model.states import AdminState, SlotPhase
from cluster.servers.ports import free_port

TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
MINIMAL = '[[apps]]\nname = "shop"\n'
LONG = "registry.example/team/shop-with-a-long-name:2026-11-22-build-1234567890@sha256:" + "a" * 64


def tidegate(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the installed program."""
    environment = {"PATH": "/usr/bin:/bin", **env}
    argv = [TIDEGATE, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, env=environment)


@dataclass
class FakeApi:
    """An agent's API that answers what it is given, and notes what it was asked."""

    port: int
    status: object = None
    code: int = 200
    body: bytes | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def answer(self) -> bytes:
        return self.body if self.body is not None else json.dumps(self.status).encode()


@pytest.fixture(name="api")
def _api() -> Iterator[FakeApi]:
    """Run a fake API on loopback."""
    fake = FakeApi(0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.asked.append((self.command, self.path, self.headers["X-Tidegate"]))
            self.send_response(fake.code)
            self.end_headers()
            self.wfile.write(fake.answer())

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield fake
    server.shutdown()
    thread.join(5)
    server.server_close()


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    file = tmp_path / "tidegate.toml"
    file.write_text(f'node = "web-1"\nstate_dir = "{tmp_path}/state"\n{MINIMAL}')
    return file


def a_report() -> NodeReport:
    blue = SlotReport(phase=SlotPhase.SERVING, image=LONG, release="0a1b2c3d4e5f", state=AdminState.READY, is_up=True)
    green = SlotReport(
        phase=SlotPhase.FAILED,
        image="shop:2",
        state=AdminState.MAINT,
        open_requests=2,
        last_request_age_s=65,
        reason="shop:2: [bold]container exited with code 3",
        lines=("Traceback", "KeyError: 'DB'"),
    )
    return NodeReport(
        app="shop",
        node="web-1",
        instance="i",
        agent="1",
        phase=SlotPhase.FAILED,
        summary="s",
        is_ready=True,
        wants=LONG,
        holds="shop:2",
        notes=("stage/image is missing: shop:2 is kept",),
        error="HAProxy refused",
        slots={SlotName.BLUE: blue, SlotName.GREEN: green},
    )


@pytest.mark.slow
def test_help_is_there_at_once_and_lists_the_commands() -> None:
    """Nothing heavy is imported for it."""
    done = tidegate("--help")
    assert done.returncode == 0
    for command in ("agent", "haproxy-config", "status", "plan", "leave", "return", "doctor", "version"):
        assert f" {command} " in done.stdout
    code = "import sys, agent.cli.main; print({'aiohttp', 'pydantic_settings', 'aiodocker'} & sys.modules.keys())"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert loaded.stdout == "set()\n"


@pytest.mark.slow
def test_valid_settings_are_said_to_be_valid(file: Path) -> None:
    """Exit code 0, one line."""
    done = tidegate("agent", "--check-config", "--config", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "settings are valid: node web-1, app shop\n", "")


@pytest.mark.slow
def test_invalid_settings_are_one_line_and_exit_code_1(file: Path) -> None:
    """On standard error, without a traceback; also for the variable that names the file."""
    file.write_text(f"nood = 1\n{MINIMAL}")
    for done in (
        tidegate("agent", "--check-config", "-c", str(file)),
        tidegate("status", TIDEGATE_CONFIG=str(file)),
    ):
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"tidegate: {file}: nood: unknown key\n")
    assert CliRunner().invoke(cli, ["agent", "--no-such-option"]).exit_code == 2


@pytest.mark.slow
def test_status_shows_all_an_operator_needs_uncut_in_a_pipe(api: FakeApi) -> None:
    """Slots, whole image names, reasons as they are, notes, error and the last log lines."""
    api.status = a_report().model_dump(mode="json")
    done = tidegate("status", "--api-port", str(api.port))
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "web-1 · app shop · ready · wants registry.example",
        f"  {LONG}  ",
        "serving",
        "failed",
        "1m5s ago",
        "shop:2: [bold]container exited with code 3",
        "! stage/image is missing",
        "! HAProxy refused",
        "last log lines of slot green",
        "KeyError: 'DB'",
    ):
        assert words in done.stdout, words


@pytest.mark.slow
def test_status_as_json_is_the_report(api: FakeApi) -> None:
    """Whole, for programs."""
    api.status = a_report().model_dump(mode="json")
    done = tidegate("status", "--json", "--api-port", str(api.port))
    assert NodeReport.model_validate_json(done.stdout) == a_report()


@pytest.mark.slow
def test_a_proxy_of_the_environment_is_not_used_for_this_host(api: FakeApi) -> None:
    """`http_proxy` is for other hosts."""
    api.status = a_report().model_dump(mode="json")
    done = tidegate("status", "--api-port", str(api.port), http_proxy=f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stderr) == (0, "")


def plain(*arguments: str) -> str:
    """Run a command in this process and return its error, that `main` prints as one line."""
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 1
    return str(result.exception)


@pytest.mark.slow
def test_without_an_agent_there_is_one_clear_line() -> None:
    """It says what to look at; exit code 1."""
    port = free_port()
    done = tidegate("status", "--api-port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"tidegate: no agent answers at http://127.0.0.1:{port}/v1/status (")
    assert done.stderr.endswith("is `tidegate agent` running?\n")
    assert len(done.stderr.splitlines()) == 1
    for command in ("plan", "leave", "return"):
        assert plain(command, "--api-port", str(port)).startswith("no agent answers at ")


@pytest.mark.parametrize("body", [b"<html>", b"", b"{}", b'{"error": 1}', b"[1]"])
def test_something_else_on_the_port_is_told_from_an_agent(api: FakeApi, body: bytes) -> None:
    """No traceback of a parser."""
    api.body = body
    message = plain("status", "--api-port", str(api.port))
    assert "is no Tidegate agent" in message or "versions differ" in message


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_a_port_without_whole_http_is_told_from_an_agent(answer: bytes) -> None:
    """Closed without a word, another protocol, or cut off."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        message = plain("leave", "--api-port", str(listening.getsockname()[1]))
        thread.join()
    assert "is no Tidegate agent" in message


def test_an_agent_that_refuses_is_quoted(api: FakeApi) -> None:
    """With the code and its words."""
    api.code, api.body = 503, b"no look at the host was made yet\n"
    assert plain("status", "--api-port", str(api.port)).endswith("answered 503: no look at the host was made yet")


def test_plan_lists_actions_reasons_and_notes(api: FakeApi) -> None:
    """As they are: a bracket is no markup; and nothing to do is not claimed to be well."""
    slots = {"blue": {"phase": "unknown", "reason": "[HAProxy] away"}}
    api.status = {"actions": ["pull shop:[2]"], "slots": slots, "notes": ["waits [1]"], "look_again_in_s": 1}
    shown = CliRunner().invoke(cli, ["plan", "--api-port", str(api.port)]).stdout
    assert shown.splitlines() == ["- pull shop:[2]", "  blue: unknown: [HAProxy] away", "! waits [1]"]
    api.status = {"actions": [], "slots": {}, "notes": [], "look_again_in_s": 1}
    assert CliRunner().invoke(cli, ["plan", "--api-port", str(api.port)]).stdout == "- nothing to do now\n"


def test_leave_and_return_are_posts_with_the_header(api: FakeApi) -> None:
    """And say how to undo it."""
    api.status = {}
    left = CliRunner().invoke(cli, ["leave", "--api-port", str(api.port)])
    assert (left.exit_code, "`tidegate return` undoes it" in left.stdout) == (0, True)
    assert CliRunner().invoke(cli, ["return", "--api-port", str(api.port)]).exit_code == 0
    assert api.asked == [("POST", "/v1/leave", "1"), ("POST", "/v1/return", "1")]


def test_the_port_of_the_settings_is_asked(api: FakeApi, file: Path) -> None:
    """Unless another is named."""
    file.write_text(f"[api]\nport = {api.port}\n{MINIMAL}")
    api.status = a_report().model_dump(mode="json")
    assert CliRunner().invoke(cli, ["status", "--config", str(file)]).exit_code == 0


def test_a_configuration_that_cannot_be_checked_is_not_written(file: Path, tmp_path: Path) -> None:
    """A bad binary is named with the reason; --out keeps what it held."""
    out = tmp_path / "haproxy.cfg"
    out.write_text("old")
    file.write_text(f'state_dir = "{tmp_path}/state"\n[haproxy]\nbinary = "{tmp_path}/none"\n{MINIMAL}')
    message = plain("haproxy-config", "--config", str(file), "--out", str(out))
    assert message == f"cannot run {tmp_path}/none: No such file or directory"
    assert out.read_text() == "old"


def test_a_configuration_is_checked_and_written_whole(file: Path, tmp_path: Path) -> None:
    """By a stand-in that finds everything valid; a place that cannot be written is named."""
    binary = tmp_path / "haproxy"
    binary.write_text("#!/bin/sh\necho Configuration file is valid\n")
    binary.chmod(0o755)
    file.write_text(f'state_dir = "{tmp_path}/state"\n[haproxy]\nbinary = "{binary}"\n{MINIMAL}')
    out = tmp_path / "haproxy.cfg"
    result = CliRunner().invoke(cli, ["haproxy-config", "--config", str(file), "--out", str(out)])
    assert (result.exit_code, "Configuration file is valid" in result.stderr) == (0, True)
    assert out.stat().st_mode & 0o777 == 0o644
    printed = CliRunner().invoke(cli, ["haproxy-config", "--config", str(file)])
    assert printed.stdout == out.read_text()
    message = plain("haproxy-config", "--config", str(file), "--out", str(tmp_path / "none" / "x"))
    assert message == f"--out: {tmp_path}/none/x cannot be written: No such file or directory"


def test_a_state_directory_that_cannot_be_made_is_named(file: Path) -> None:
    """Also by `haproxy-config`, which puts the map files there."""
    file.write_text(f'state_dir = "/proc/no/state"\n{MINIMAL}')
    assert plain("haproxy-config", "--config", str(file)).startswith("state_dir: /proc/no/state cannot be written: ")

"""What reaches the log: JSON where no terminal is, and never a secret."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from agent.config import Settings, load

SECRET = "s3cr3t-of-the-test"
PROGRAM = """
import sys
from pathlib import Path
import structlog
from agent import log
from agent.config import load
log.configure(node="web-1")
logger = structlog.get_logger()
settings = load(Path(sys.argv[1]))
logger.info("thing.happened", settings=settings, spec=settings.app.default_spec, token=settings.consul.token)
logger.debug("thing.hidden")
try:
    token = settings.consul.token.get_secret_value()
    raise ValueError("broke")
except ValueError:
    logger.exception("thing.crashed")
"""


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    """Settings with a token and a secret in the environment of the container."""
    file = tmp_path / "tidegate.toml"
    file.write_text(
        f'[consul]\ntoken = "{SECRET}"\n[[apps]]\nname = "shop"\n[apps.default_spec.env]\nDB = "{SECRET}"\n'
    )
    return file


@pytest.fixture(name="settings")
def _settings(file: Path) -> Settings:
    return load(file)


def test_a_settings_object_never_shows_its_secrets(settings: Settings) -> None:
    """Not by its text, not as a document, not in part."""
    spec = settings.app.default_spec
    for text in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump(mode="json"))):
        assert SECRET not in text
    for text in (repr(spec), str(spec), spec.model_dump_json(), f"{spec.env}", f"{settings.consul}"):
        assert SECRET not in text
    assert settings.consul.token.get_secret_value() == SECRET


@pytest.mark.slow
def test_without_a_terminal_each_line_is_json(file: Path) -> None:
    """With host, level and UTC time; a traceback is one field, without the values of variables."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file)], capture_output=True, text=True, timeout=20, check=True
    )
    happened, broke = (json.loads(line) for line in done.stderr.splitlines())
    assert (happened["event"], happened["host"], happened["level"]) == ("thing.happened", "web-1", "info")
    assert happened["timestamp"].endswith("Z")
    assert (broke["event"], broke["level"]) == ("thing.crashed", "error")
    assert "ValueError: broke" in broke["exception"]
    assert SECRET not in done.stderr + done.stdout


@pytest.mark.slow
def test_on_a_terminal_lines_are_for_people_and_as_silent(file: Path) -> None:
    """A console traceback that shows local variables would show the token."""
    primary, secondary = pty.openpty()
    try:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(file)], stderr=secondary)
        os.close(secondary)
        shown = b""
        try:
            while chunk := os.read(primary, 65536):
                shown += chunk
        except OSError:
            pass  # the other end is closed
        assert process.wait(timeout=20) == 0
    finally:
        os.close(primary)
    text = shown.decode()
    assert "thing.happened" in text
    assert "ValueError: broke" in text
    assert SECRET not in text

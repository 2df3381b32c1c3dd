"""Settings: a file, the environment over it, and an error that names the place for everything that does not fit."""

from pathlib import Path

import pytest

from agent.config import load
from agent.core.model.errors import FatalError

MINIMAL = '[[apps]]\nname = "shop"\n'


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    return tmp_path / "tidegate.toml"


def refusal(file: Path) -> str:
    with pytest.raises(FatalError) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"nood = 1\n{MINIMAL}", "nood: unknown key"),
        (f"[haproxy]\nsokket = 1\n{MINIMAL}", "haproxy.sokket: unknown key"),
        (f"{MINIMAL}[apps.knobs]\nbake = 1\n", "apps.0.knobs.bake: unknown key"),
        ("", "apps: a host has exactly one app, unless it only coordinates"),
        ("apps = []", "apps: a host has exactly one app, unless it only coordinates"),
        (f"{MINIMAL}{MINIMAL}", "apps: a host has one app, for now; 2 are set"),
        (f'{MINIMAL}subnet = "10.0.0.0/30"\n', "apps.0: subnet must hold at least 8 addresses"),
        (f'{MINIMAL}subnet = "10.0.0.1/24"\n', "apps.0.subnet: "),
        (f'{MINIMAL}blue = "10.9.9.9"\n', "apps.0: blue: 10.9.9.9 is no free host address"),
        (f'{MINIMAL}blue = "172.30.80.1"\n', "apps.0: blue: 172.30.80.1 is no free host address"),
        (f'{MINIMAL}green = "172.30.80.11"\n', "apps.0: blue and green must have different addresses"),
        (f'{MINIMAL}[apps.knobs]\nbake_time = "2h"\n', "apps.0.knobs: bake_time is longer than drain_timeout"),
        (f'{MINIMAL}[apps.knobs]\nbake_time = "a while"\n', "apps.0.knobs.bake_time: 'a while' is no duration"),
        ('[[apps]]\nname = "Shop!"\n', "apps.0.name: app name 'Shop!' must be"),
        (f'node = "a b"\n{MINIMAL}', "node: node name 'a b' must be"),
        (f'[consul]\naddress = "consul:8500"\n{MINIMAL}', "consul.address: "),
        (f"[api]\nport = 0\n{MINIMAL}", "api.port: "),
        (f"{MINIMAL}[apps.default_spec]\nimage = 1\n", "apps.0.default_spec.image: unknown key"),
        ("coordinator = true", "coordinates: name the apps, as this host has none of its own"),
        (f'coordinates = ["shop"]\n{MINIMAL}', "coordinates: set coordinator = true, too"),
        ('coordinator = true\ncoordinates = ["Shop!"]', "coordinates.0: app name 'Shop!' must be"),
        (f'{MINIMAL}[docker]\ninsecure_registries = ["http://x"]', "docker.insecure_registries.0: "),
        ("node = \n", "is no TOML: "),
    ],
)
def test_each_error_names_file_and_key(file: Path, text: str, words: str) -> None:
    """One line, fit for an operator."""
    file.write_text(text)
    message = refusal(file)
    assert str(file) in message
    assert words in message


def test_every_error_is_told_at_once(file: Path) -> None:
    """One line for each, so that nobody repairs them one by one."""
    file.write_text(f"nood = 1\n[api]\nport = 0\n{MINIMAL}")
    with pytest.raises(FatalError) as caught:
        load(file)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TIDEGATE_NOOD", "x", "environment variable TIDEGATE_NOOD: there is no setting 'nood'"),
        ("TIDEGATE_CONSUL__TOKN", "x", "environment variable TIDEGATE_CONSUL__TOKN: unknown key"),
        ("TIDEGATE_BOOT_WAIT", "soon", "environment variable TIDEGATE_BOOT_WAIT: 'soon' is no duration"),
        ("TIDEGATE_API__PORT", "http", "environment variable TIDEGATE_API__PORT: "),
        ("TIDEGATE_APPS", "shop", "environment variable TIDEGATE_APPS must be JSON"),
    ],
)
def test_a_variable_that_does_not_fit_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    """The variable, not the file that is right."""
    file.write_text(MINIMAL)
    monkeypatch.setenv(name, value)
    assert refusal(file).startswith(words)


def test_the_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key by key: what it does not name stays as the file says."""
    file.write_text(f'boot_wait = "1m"\n[haproxy]\nmaxconn = 100\nops_port = 9000\n{MINIMAL}')
    monkeypatch.setenv("TIDEGATE_HAPROXY__MAXCONN", "200")
    monkeypatch.setenv("TIDEGATE_BOOT_WAIT", "5s")
    settings = load(file)
    assert (settings.boot_wait, settings.haproxy.maxconn, settings.haproxy.ops_port) == (5, 200, 9000)


def test_the_file_is_named_by_argument_or_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins."""
    file.write_text(MINIMAL)
    monkeypatch.setenv("TIDEGATE_CONFIG", str(file))
    assert load().app.name == "shop"
    other = file.with_name("other.toml")
    other.write_text('[[apps]]\nname = "till"\n')
    assert load(other).app.name == "till"


def test_a_missing_file_says_how_to_name_another(file: Path) -> None:
    """And a directory in its place is told from it."""
    assert refusal(file).startswith(f"settings file {file} does not exist (name another with --config")
    file.mkdir()
    assert refusal(file) == f"settings file {file} cannot be read: Is a directory"


def test_old_haproxy_workers_never_outlive_the_longest_visit(file: Path) -> None:
    """By default and at most `drain_timeout`."""
    file.write_text(f'{MINIMAL}[apps.knobs]\ndrain_timeout = "10m"\n')
    assert load(file).hard_stop_after_s == 600
    file.write_text(f'[haproxy]\nhard_stop_after = "1h"\n{MINIMAL}[apps.knobs]\ndrain_timeout = "10m"\n')
    assert load(file).hard_stop_after_s == 600
    file.write_text(f'[haproxy]\nhard_stop_after = "1m"\n{MINIMAL}')
    assert load(file).hard_stop_after_s == 60


@pytest.mark.parametrize(
    ("text", "apps"),
    [
        (MINIMAL, ()),
        (f"coordinator = true\n{MINIMAL}", ("shop",)),
        (f'coordinator = true\ncoordinates = ["till"]\n{MINIMAL}', ("till",)),
        ('coordinator = true\ncoordinates = ["shop", "till", "shop"]', ("shop", "till")),
    ],
)
def test_a_coordinator_coordinates_its_own_app_or_those_it_names(file: Path, text: str, apps: tuple[str, ...]) -> None:
    """Each once; who is none coordinates nothing."""
    file.write_text(text)
    assert load(file).coordinated == apps

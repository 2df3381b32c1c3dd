"""How the command line finds Consul and the app: by option, the consul command's environment, settings, or default."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.cli.connect import author_of, named_app
from agent.cli.endpoint import client_of, resolve_endpoint, settings_of, with_scheme
from agent.cli.options import ConsulOptions
from agent.config import Settings
from agent.core.model.errors import FatalError

FILES = ["CONSUL_CACERT", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY"]


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    file = tmp_path / "tidegate.toml"
    file.write_text(
        'node = "web-1"\n[consul]\naddress = "https://settings:8501"\ntoken_file = "/settings/token"\n'
        'ca_file = "/settings/ca"\n[[apps]]\nname = "shop"\n'
    )
    found = settings_of(file)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "is_tls", "address"),
    [
        ("127.0.0.1:8500", False, "http://127.0.0.1:8500"),
        ("consul.example:8501", True, "https://consul.example:8501"),
        ("http://consul.example:8500", False, "http://consul.example:8500"),
        ("http://consul.example:8501", True, "https://consul.example:8501"),
        ("https://consul.example", False, "https://consul.example"),
        ("unix:///run/consul.sock", True, "unix:///run/consul.sock"),
    ],
)
def test_an_address_is_completed_as_the_consul_command_does(text: str, is_tls: bool, address: str) -> None:
    """CONSUL_HTTP_SSL is never taken back by `http://`; a socket stays one."""
    assert with_scheme(text, is_tls=is_tls) == address


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, "http://127.0.0.1:8500"),
        ({"CONSUL_HTTP_ADDR": ""}, "http://127.0.0.1:8500"),
        ({"CONSUL_HTTP_ADDR": "a:1"}, "http://a:1"),
        ({"CONSUL_HTTP_ADDR": "a:1", "CONSUL_HTTP_SSL": "true"}, "https://a:1"),
        ({"CONSUL_HTTP_ADDR": "a:1", "CONSUL_HTTP_SSL": "1"}, "https://a:1"),
        ({"CONSUL_HTTP_ADDR": "a:1", "CONSUL_HTTP_SSL": "false"}, "http://a:1"),
        ({"CONSUL_HTTP_ADDR": "a:1", "CONSUL_HTTP_SSL": "nonsense"}, "http://a:1"),
    ],
)
def test_without_settings_the_environment_says_where_consul_is(environ: Mapping[str, str], address: str) -> None:
    """A laptop needs no file; an empty variable is none."""
    assert resolve_endpoint(ConsulOptions(), environ).address == address


def test_option_wins_over_environment_over_settings(settings: Settings) -> None:
    """Each part by itself."""
    plain = resolve_endpoint(ConsulOptions(), {}, settings)
    assert (plain.address, plain.token_file, plain.ca_file) == (
        "https://settings:8501",
        Path("/settings/token"),
        Path("/settings/ca"),
    )
    environ = {"CONSUL_HTTP_ADDR": "http://env:8500", "CONSUL_HTTP_TOKEN": "secret"} | dict.fromkeys(FILES, "/env")
    env = resolve_endpoint(ConsulOptions(), environ, settings)
    assert (env.address, env.token, env.token_file) == ("http://env:8500", "secret", None)
    assert (env.ca_file, env.cert_file, env.key_file) == (Path("/env"), Path("/env"), Path("/env"))
    option = resolve_endpoint(
        ConsulOptions(http_addr="opt:1", token_file=Path("/opt"), ca_file=Path("/opt/ca")), environ, settings
    )
    assert (option.address, option.token, option.token_file) == ("http://opt:1", "", Path("/opt"))
    assert (option.ca_file, option.cert_file) == (Path("/opt/ca"), Path("/env"))


def test_a_token_file_wins_over_a_token_of_the_same_place() -> None:
    """As with the consul command."""
    where = resolve_endpoint(ConsulOptions(), {"CONSUL_HTTP_TOKEN": "secret", "CONSUL_HTTP_TOKEN_FILE": "/env/token"})
    assert (where.token, where.token_file) == ("", Path("/env/token"))


def test_an_address_or_a_certificate_that_cannot_be_used_is_named() -> None:
    """With the ways to give another."""
    with pytest.raises(FatalError, match=r"'ftp://x' is no Consul address.*CONSUL_HTTP_ADDR"):
        client_of(resolve_endpoint(ConsulOptions(http_addr="ftp://x"), {}))
    with pytest.raises(FatalError, match="TLS files /none/ca: "):
        client_of(resolve_endpoint(ConsulOptions(http_addr="https://x", ca_file=Path("/none/ca")), {}))


def test_a_settings_file_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default one, or that of the environment, need not."""
    monkeypatch.setenv("TIDEGATE_CONFIG", str(tmp_path / "none.toml"))
    assert settings_of(None) is None
    with pytest.raises(FatalError, match="does not exist"):
        settings_of(tmp_path / "none.toml")


def test_the_app_is_that_of_option_environment_or_settings(settings: Settings) -> None:
    """In this order."""
    assert named_app(ConsulOptions(app="till"), {"TIDEGATE_APP": "desk"}, settings) == "till"
    assert named_app(ConsulOptions(), {"TIDEGATE_APP": "desk"}, settings) == "desk"
    assert named_app(ConsulOptions(), {}, settings) == "shop"
    assert named_app(ConsulOptions(), {}, None) is None


def test_the_author_is_who_is_named_else_user_and_host() -> None:
    """Without control characters, and not without end."""
    assert author_of({"TIDEGATE_AUTHOR": "ann\x1b[31m@laptop"}) == "ann[31m@laptop"
    assert len(author_of({"TIDEGATE_AUTHOR": "x" * 500})) == 100
    assert "@" in author_of({})

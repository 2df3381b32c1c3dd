"""Where registry logins are found: Docker's configuration file and the credential helpers it names."""

import base64
import json
from pathlib import Path

import pytest

from agent.adapters.registry.credentials import registry_auth
from agent.core.model.errors import ImagePullError, ImageRefusedError
from tests.adapters.registry.rig import basic


def auth_file(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    return path


async def test_no_login_file_means_no_login(tmp_path: Path) -> None:
    """Public images need no configuration."""
    assert await registry_auth(tmp_path / "none.json", "docker.io") is None


@pytest.mark.parametrize("key", ["reg.example:5000", "https://reg.example:5000", "http://reg.example:5000/v1/"])
async def test_a_stored_login_is_found_by_host(tmp_path: Path, key: str) -> None:
    """Docker has written the registry's name in several ways over time."""
    path = auth_file(tmp_path, {"auths": {key: {"auth": base64.b64encode(b"ci:pass:word").decode()}}})
    assert await registry_auth(path, "reg.example:5000") == {"username": "ci", "password": "pass:word"}
    assert await registry_auth(path, "reg.example") is None


async def test_docker_hub_has_a_name_of_its_own(tmp_path: Path) -> None:
    """The hub's login stands under its old index address."""
    path = auth_file(tmp_path, {"auths": {"https://index.docker.io/v1/": {"identitytoken": "token"}}})
    assert await registry_auth(path, "docker.io") == {"identitytoken": "token"}


HUB = "https://index.docker.io/v1/"


@pytest.mark.parametrize(
    ("registry", "auths", "user"),
    [
        ("docker.io", {HUB: basic("ci", "x"), f"{HUB}refresh-token": basic("web", "y")}, "ci"),
        ("docker.io", {f"{HUB}access-token": basic("web", "y")}, None),
        ("docker.io", {"index.docker.io": basic("ci", "x")}, "ci"),
        ("r.example", {"r.example": basic("ci", "x"), "r.example/team": basic("team", "y")}, "ci"),
        (
            "r.example",
            {"https://r.example/v2/team": basic("team", "y"), "https://r.example/v2/": basic("ci", "x")},
            "ci",
        ),
        ("r.example", {"r.example": {"username": "ci", "password": "x"}}, "ci"),
    ],
)
async def test_of_several_entries_the_registrys_own_is_taken(
    tmp_path: Path, registry: str, auths: dict[str, dict[str, str]], user: str | None
) -> None:
    """Whatever else stands for the same host: tokens of a web login, logins of a path, fields without `auth`."""
    for ordered in (auths, dict(reversed(auths.items()))):
        found = await registry_auth(auth_file(tmp_path, {"auths": ordered}), registry)
        assert found == ({"username": user, "password": "x"} if user else None)


@pytest.mark.parametrize("key", [HUB, "index.docker.io", "docker.io"])
async def test_a_helper_of_docker_hub_has_any_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """It is asked for the one that Docker asks for."""
    install_helper(tmp_path, monkeypatch, 'printf \'{"Username": "%s", "Secret": "s"}\' "$host"')
    found = await registry_auth(auth_file(tmp_path, {"credHelpers": {key: "lab"}}), "docker.io")
    assert found == {"username": HUB, "password": "s"}


@pytest.mark.parametrize("content", ["{", '{"auths": {"r": {"auth": "%%secret%%"}}}'])
async def test_a_damaged_login_file_is_named_without_its_content(tmp_path: Path, content: str) -> None:
    """The error says which file, and nothing of what is in it."""
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ImageRefusedError, match=r"config\.json") as caught:
        await registry_auth(path, "r")
    assert "secret" not in str(caught.value).replace(str(path), "")


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ('echo \'{"Username": "<token>", "Secret": "t"}\'', {"identitytoken": "t"}),
        ("echo credentials not found in native keychain; exit 1", None),
    ],
)
async def test_a_helper_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, outcome: dict[str, str] | None
) -> None:
    """A store may hold a token, or nothing for this registry."""
    install_helper(tmp_path, monkeypatch, script)
    assert await registry_auth(auth_file(tmp_path, {"credsStore": "lab"}), "r.example") == outcome


@pytest.mark.parametrize("script", ["echo locked; exit 1", 'echo \'{"Secret": "hunter2"}\'', "true"])
async def test_a_failing_helper_may_recover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A helper that fails is a transient error that quotes no secret."""
    install_helper(tmp_path, monkeypatch, script)
    with pytest.raises(ImagePullError, match="docker-credential-lab") as caught:
        await registry_auth(auth_file(tmp_path, {"credsStore": "lab"}), "r.example")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["not-installed", "../../bin/sh"])
async def test_an_unusable_helper_is_final(tmp_path: Path, name: str) -> None:
    """A helper that is not there, or whose name leads elsewhere, is refused."""
    with pytest.raises(ImageRefusedError, match="credential helper"):
        await registry_auth(auth_file(tmp_path, {"credsStore": name}), "r.example")


def install_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    helper = tmp_path / "docker-credential-lab"
    helper.write_text(f"#!/bin/sh\nread host\n{script}\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

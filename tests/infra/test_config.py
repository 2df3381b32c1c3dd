"""Environments that are no good are refused, and the field is named."""

from pathlib import Path
from typing import Any

import pytest

from infra.config import environments, load, parse
from infra.errors import ConfigError


@pytest.mark.parametrize("env", environments())
def test_environments_that_come_along_are_valid(env: str) -> None:
    assert load(env).stack


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"network": {"ssh_cidrs": ["0.0.0.0/0"]}}, "network.ssh_cidrs"),
    ({"network": {"ssh_cidrs": ["203.0.113.7/24"]}}, "network.ssh_cidrs.0"),
    ({"network": {"cidr": "10.43.1.0/16"}}, "network.cidr"),
    ({"network": {"cidr": "10.43.0.0/24"}}, "network.cidr"),
    ({"network": {"cidr": "172.30.0.0/16"}}, "network.cidr"),
    ({"network": {"zones": ["us-east-1a"]}}, "network.zones"),
    ({"network": {"zones": ["us-east-1a", "us-east-1a"]}}, "network"),
    ({"network": {"nat_per_zone": True}}, "network"),
    ({"consul": {"count": 2}}, "consul.count"),
    ({"web": {"count": 6}}, "web"),
    ({"web": {"boot_minutes": 60}}, "web.boot_minutes"),
    ({"web": {"instance_type": "big"}}, "web.instance_type"),
    ({"web": {"instance_tpye": "t3.small"}}, "web.instance_tpye: unknown key"),
    ({"image": {"root_device": "/dev/sda"}}, "image.root_device"),
    ({"app": {"health_path": "health"}}, "app.health_path"),
    ({"domain": "CS90."}, "domain"),
    ({"log_days": 31}, "log_days"),
    ({"colour": "blue"}, "colour: unknown key"),
]


@pytest.mark.parametrize(("table", "named"), REFUSED, ids=lambda each: each if isinstance(each, str) else "")
def test_refused_with_the_field_named(table: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse({"stack": "x", **table}, "x.toml")
    assert f"x.toml: {named}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("staging", "there are: dev, prod"),
        ("./none.toml", "No such file"),
        ("../x y", "No such file"),
        ("a b", "no name"),
    ],
)
def test_an_environment_that_is_not_there_is_named(env: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(env)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("stack =")
    with pytest.raises(ConfigError, match=r"bad\.toml: no TOML"):
        load(str(file))

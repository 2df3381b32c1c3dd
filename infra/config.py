"""
What an environment is like: a TOML file in ``infra/environments``, as frozen models.

Shape (private or public, zones, SSH) stands here; values of a deployment (image, certificate, first release) are
parameters of the stack. What CloudFormation and its linters would let through is refused here, naming the field.
"""

import re
import tomllib
from importlib.resources import files
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from infra.errors import ConfigError

SUBNET_PREFIX = 24
ALB_IDLE_S = 60
"""Below HAProxy's keep-alive and client timeouts, or visitors get 502s now and then."""

CONTAINERS = IPv4Network("172.30.80.0/24")
"""Where the agent puts an app's containers by default."""

_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
_InstanceType = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$")]
_Minutes = Annotated[int, Field(ge=1, le=60)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Section):
    """The VPC."""

    cidr: IPv4Network = IPv4Network("10.43.0.0/16")
    """Addresses of the VPC."""
    zones: Annotated[tuple[str, ...], Field(min_length=2, max_length=4)] | None = None
    """Availability zones by name; by default the region's first three."""
    private_subnets: bool = False
    """Hosts get no public addresses, and reach the outside through NAT."""
    nat_per_zone: bool = False
    """A NAT gateway in each zone instead of one for all."""
    ssh_cidrs: tuple[IPv4Network, ...] = ()
    """Who may open SSH; nobody by default (Session Manager needs no port)."""
    key_name: str | None = None
    """EC2 key pair for SSH."""

    @field_validator("cidr")
    @classmethod
    def _has_room(cls, cidr: IPv4Network) -> IPv4Network:
        if not 16 <= cidr.prefixlen <= 20:
            raise ValueError("a VPC of /16 to /20 has room for the subnets")
        if cidr.overlaps(CONTAINERS):
            raise ValueError(f"{cidr} overlaps the containers' own network on each host, {CONTAINERS}")
        return cidr

    @field_validator("ssh_cidrs")
    @classmethod
    def _is_not_the_world(cls, cidrs: tuple[IPv4Network, ...]) -> tuple[IPv4Network, ...]:
        for cidr in cidrs:
            if cidr.prefixlen < 16:
                raise ValueError(f"{cidr} is too much of the world for SSH: /16 at most")
        return cidrs

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.nat_per_zone and not self.private_subnets:
            raise ValueError("nat_per_zone needs private_subnets")
        if self.zones is not None and len(set(self.zones)) != len(self.zones):
            raise ValueError("zones: one is named twice")
        return self

    @property
    def zone_count(self) -> int:
        """How many zones."""
        return 3 if self.zones is None else len(self.zones)


class Image(_Section):
    """The AMI."""

    parameter: Annotated[str, Field(pattern=r"^/[A-Za-z0-9_./-]+$")] = "/tidegate/ami/current"
    """SSM parameter with the id of the image that Packer made."""
    root_device: Literal["/dev/xvda", "/dev/sda1"] = "/dev/xvda"
    """Debian's; Ubuntu's is ``/dev/sda1``. A wrong one puts size and encryption on a second disk."""


class Tier(_Section):
    """A group of machines."""

    instance_type: _InstanceType
    count: Annotated[int, Field(ge=1, le=200)] = 3
    disk_gb: Annotated[int, Field(ge=8, le=1000)] = 20
    boot_minutes: Annotated[int, Field(ge=5, le=55)] = 15
    """Longest time from launch to serving (web) or voting (Consul); CloudFormation waits for an hour at most."""


class Web(Tier):
    """The hosts that serve."""

    instance_type: _InstanceType = "t3.medium"
    max_count: Annotated[int, Field(ge=2, le=400)] = 6
    """Upper bound of the group; one above *count* at least, so that a rolling update adds before it takes."""
    drain_minutes: _Minutes = 5
    """Longest time a host may take to leave."""

    @model_validator(mode="after")
    def _can_grow(self) -> Self:
        if self.max_count <= self.count:
            raise ValueError(f"max_count must be above count ({self.count}): a rolling update adds a host first")
        return self


class Consul(Tier):
    """The Consul servers, which coordinate rollouts too."""

    instance_type: _InstanceType = "t3.small"

    @field_validator("count")
    @classmethod
    def _tolerates_a_loss(cls, count: int) -> int:
        if count not in {3, 5}:
            raise ValueError("3 or 5 Consul servers: an even number tolerates no more losses, one tolerates none")
        return count


class App(_Section):
    """What runs; becomes ``[[apps]]`` in the hosts' settings."""

    name: _Name = "cs90"
    container_port: Annotated[int, Field(ge=1, le=65535)] = 80
    health_path: Annotated[str, Field(pattern=r"^/[^\s\"]*$")] = "/"
    knobs: dict[str, str] = {}
    """Durations and counts of rollouts; the agent checks them."""
    repositories: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]+$")], ...] = ()
    """ECR repositories of this account and region that hosts may pull from."""


class StackConfig(_Section):
    """One environment."""

    stack: _Name
    """Name of the stack."""
    domain: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?$")] = "cs90"
    """Private DNS zone of ``consul.<zone>.<domain>``."""
    network: Network = Network()
    image: Image = Image()
    web: Web = Web()
    consul: Consul = Consul()
    app: App = App()
    log_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 180, 365] = 30
    """How long logs are kept."""
    protect: bool = False
    """The balancer and the stack cannot be deleted by mistake."""
    tags: dict[str, str] = {}
    """Further tags of the stack."""

    @model_validator(mode="after")
    def _spreads(self) -> Self:
        if self.network.zone_count > self.consul.count:
            raise ValueError("network.zones: more zones than Consul servers")
        return self


def environments() -> tuple[str, ...]:
    """Return the names of the environments that come with Tidegate."""
    found = (entry.name for entry in files("infra").joinpath("environments").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def load(env: str) -> StackConfig:
    """
    Read an environment: a name such as ``dev``, or the path of a TOML file.

    Raises:
        ConfigError: there is none, or a field is unknown or does not fit; each is named.
    """
    is_path = "/" in env or env.endswith(".toml")
    if not is_path and not re.fullmatch(r"[a-z0-9-]+", env):
        raise ConfigError(f"environment {env!r} is no name")
    if is_path:
        source = Path(env)
    else:
        source = Path(str(files("infra").joinpath("environments", f"{env}.toml")))
        if not source.is_file():
            raise ConfigError(f"no environment {env!r}; there are: {', '.join(environments())} (or give a path)")
    try:
        return parse(tomllib.loads(source.read_text(encoding="utf-8")), str(source.name))
    except OSError as exc:
        raise ConfigError(f"{source}: {exc.strerror}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{source}: no TOML: {exc}") from exc


def parse(table: dict[str, Any], name: str) -> StackConfig:
    """
    Check a table.

    Raises:
        ConfigError: with one line for each field that is wrong.
    """
    try:
        return StackConfig.model_validate(table)
    except ValidationError as exc:
        raise ConfigError("\n".join(_problem(name, each) for each in exc.errors(include_url=False))) from exc


def _problem(name: str, problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "the whole"
    what = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
    return f"{name}: {key}: {what}"

"""The part of an app that deploys do not change: name, addresses, cookie, knobs; checked once."""

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from agent.core.model.documents import StrictDocument
from agent.core.model.durations import Duration
from agent.core.model.names import AppName, SlotName, parse_app
from agent.core.model.spec import RunSpec


class DeployTimings(StrictDocument):
    """Times and counts of a deploy on one host (design.md, section 5); all durations in seconds inside."""

    image_pull_timeout: Annotated[Duration, Field(gt=0)] = 300.0
    """Maximum time a pull may make no progress."""
    healthy_deadline: Annotated[Duration, Field(gt=0)] = 300.0
    """Maximum time from the start of the container until it is staged."""
    min_healthy_time: Annotated[Duration, Field(ge=0)] = 10.0
    """Time a container must be healthy without interruption before it is staged."""
    bake_time: Annotated[Duration, Field(ge=0)] = 300.0
    """Minimum time the old release stays warm after a switch."""
    drain_timeout: Annotated[Duration, Field(gt=0)] = 1800.0
    """Maximum time visitors keep the old release; set it to your longest visit."""
    visit_idle: Annotated[Duration, Field(ge=1)] = 1800.0
    """Time without a request after which a visit has ended."""
    stop_grace_period: Annotated[Duration, Field(ge=0)] = 10.0
    """Time for open requests to finish after `maint`, and time between the stop signal and SIGKILL."""
    keep_releases: Annotated[int, Field(ge=1, le=100)] = 3
    """Number of releases whose images stay on disk."""

    @model_validator(mode="after")
    def _bake_ends_before_the_drain(self) -> Self:
        if self.bake_time > self.drain_timeout:
            raise ValueError("bake_time is longer than drain_timeout: the old release would be removed during the bake")
        return self


def _http_path(value: str) -> str:
    if not value.startswith("/") or any(char <= " " or char > "~" or char in "'\"\\#;" for char in value):
        raise ValueError("must start with '/' and hold no space, quote, backslash, '#', ';' or control character")
    return value


HttpPath = Annotated[str, Field(max_length=512), AfterValidator(_http_path)]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]


class App(StrictDocument):
    """An app as the settings describe it."""

    name: Annotated[AppName, AfterValidator(parse_app)]
    """Name of the app, and its key prefix in Consul."""
    port: Annotated[int, Field(ge=1, le=65535)] = 80
    """Public port of this host's HAProxy."""
    bind: IPv4Address = IPv4Address("0.0.0.0")  # noqa: S104 - the public address of a web host
    """Address HAProxy binds the public port on."""
    hosts: tuple[HostName, ...] = ()
    """Host names that this app answers to; an empty list means all."""
    container_port: Annotated[int, Field(ge=1, le=65535)] = 80
    """Port the app listens on inside its container."""
    health_path: HttpPath = "/"
    """Path of the health check of HAProxy and the agent; must answer 200."""
    network: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")] | None = None
    """Name of the app's Docker network, by default ``tidegate-<name>``; agents that share a daemon need one each."""
    subnet: IPv4Network = IPv4Network("172.30.80.0/24")
    """Docker network of this app's containers; must not overlap another network of the host."""
    blue: IPv4Address | None = None
    """Fixed container address of slot blue; by default the 11th of the subnet."""
    green: IPv4Address | None = None
    """Fixed container address of slot green; by default the 12th of the subnet."""
    cookie: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "TIDEGATE"
    """Name of the pinning cookie."""
    default_spec: RunSpec = RunSpec()
    """Run spec of a release that is set by hand."""
    knobs: DeployTimings = DeployTimings()
    """Times and counts of a deploy."""

    @model_validator(mode="after")
    def _slots_lie_in_the_subnet(self) -> Self:
        if self.subnet.num_addresses < 8:
            raise ValueError("subnet must hold at least 8 addresses")
        addresses = {slot: self.address(slot) for slot in SlotName}
        for slot, address in addresses.items():
            if address not in self.subnet or address in (self.gateway, self.subnet[0], self.subnet[-1]):
                msg = f"{slot}: {address} is no free host address of subnet {self.subnet}"
                raise ValueError(msg)
        if len(set(addresses.values())) < len(addresses):
            raise ValueError("blue and green must have different addresses")
        return self

    @property
    def gateway(self) -> IPv4Address:
        """The host's own address on the app's network."""
        return self.subnet[1]

    def address(self, slot: SlotName) -> IPv4Address:
        """Return the fixed container address of *slot*."""
        chosen = self.blue if slot is SlotName.BLUE else self.green
        first = 11 if self.subnet.num_addresses >= 16 else 3
        return chosen or self.subnet[first + (slot is SlotName.GREEN)]

    @property
    def network_name(self) -> str:
        """Name of the app's Docker network."""
        return self.network or f"tidegate-{self.name}"

"""What a stack costs a month: list prices of us-east-1, 730 hours, without traffic."""

from dataclasses import dataclass

from infra.config import StackConfig
from infra.errors import ConfigError

SOURCE = (
    "on-demand list prices of us-east-1, from general knowledge in November 2026, not read from AWS: "
    "check them before you budget"
)
HOURS = 730
INSTANCE_USD_PER_HOUR = {
    "t3.micro": 0.0104,
    "t3.small": 0.0208,
    "t3.medium": 0.0416,
    "t3.large": 0.0832,
    "m5.large": 0.096,
    "m6i.large": 0.096,
    "c6i.large": 0.085,
}
DISK_USD_PER_GB, BALANCER_USD_PER_HOUR, NAT_USD_PER_HOUR = 0.08, 0.0225, 0.045
ADDRESS_USD_PER_HOUR, ZONE_USD = 0.005, 0.50


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    what: str
    usd: float


def estimate(config: StackConfig) -> tuple[Line, ...]:
    """
    Return the lines of the table; what traffic adds (balancer capacity, NAT by the gigabyte) is not in it.

    Raises:
        ConfigError: the price of an instance type is not known here.
    """
    lines = [
        Line(f"{tier.count} {tier.instance_type} ({name})", tier.count * _hourly(name, tier.instance_type) * HOURS)
        for name, tier in (("consul", config.consul), ("web", config.web))
    ]
    disk_gb = sum(tier.count * tier.disk_gb for tier in (config.consul, config.web))
    zones, network = config.network.zone_count, config.network
    nats = 0 if not network.private_subnets else zones if network.nat_per_zone else 1
    hosts = 0 if network.private_subnets else config.web.count + config.consul.count
    addresses = zones + nats + hosts
    lines += [
        Line(f"{disk_gb} GB gp3", disk_gb * DISK_USD_PER_GB),
        Line("load balancer, without its capacity units", BALANCER_USD_PER_HOUR * HOURS),
        Line(f"{addresses} public IPv4 addresses", addresses * ADDRESS_USD_PER_HOUR * HOURS),
        Line("private DNS zone", ZONE_USD),
    ]
    if nats:
        lines.append(Line(f"{nats} NAT, without $0.045 per GB", nats * NAT_USD_PER_HOUR * HOURS))
    return tuple(lines)


def _hourly(tier: str, instance_type: str) -> float:
    try:
        return INSTANCE_USD_PER_HOUR[instance_type]
    except KeyError:
        known = ", ".join(INSTANCE_USD_PER_HOUR)
        raise ConfigError(f"{tier}.instance_type: no price of {instance_type} is known here, only of {known}") from None


def table(config: StackConfig) -> str:
    """Return the table as text, with its sum and source."""
    lines = estimate(config)
    total = sum(line.usd for line in lines)
    rows = [f"{line.what:<46} {line.usd:>9.2f}" for line in (*lines, Line("a month, in USD", total))]
    return "\n".join([*rows[:-1], "-" * 56, rows[-1], SOURCE])

"""VPC, subnets, gateways and routes."""

from dataclasses import dataclass
from typing import Any

from troposphere import AWSObject, GetAtt, GetAZs, Ref, Region, Select, StackName, Sub, Tags, ec2

from infra.config import SUBNET_PREFIX, StackConfig


@dataclass(frozen=True, slots=True)
class Network:
    """What the other tiers need to know of the network."""

    vpc: ec2.VPC
    public: tuple[ec2.Subnet, ...]
    """Where the balancer stands."""
    hosts: tuple[ec2.Subnet, ...]
    """Where hosts stand."""
    zones: tuple[Any, ...]
    """Names of the availability zones."""
    ways_out: tuple[str, ...]
    """What must exist before a host boots, or its first boot finds no way out."""
    resources: tuple[AWSObject, ...]


def build(config: StackConfig) -> Network:
    """Return the network of *config*."""
    count = config.network.zone_count
    vpc = ec2.VPC(
        "Vpc",
        CidrBlock=str(config.network.cidr),
        EnableDnsSupport=True,
        EnableDnsHostnames=True,
        Tags=Tags(Name=StackName),
    )
    gateway = ec2.InternetGateway("InternetGateway", Tags=Tags(Name=StackName))
    attachment = ec2.VPCGatewayAttachment("GatewayAttachment", VpcId=Ref(vpc), InternetGatewayId=Ref(gateway))
    routes = ec2.RouteTable("PublicRoutes", VpcId=Ref(vpc), Tags=_named("public"))
    way_out = ec2.Route(
        "PublicDefaultRoute",
        RouteTableId=Ref(routes),
        DestinationCidrBlock="0.0.0.0/0",
        GatewayId=Ref(gateway),
        DependsOn=[attachment.title],
    )
    public = tuple(_subnet(config, vpc, index, is_public=True) for index in range(count))
    joined = tuple(_join(f"PublicRoutes{index + 1}", subnet, routes) for index, subnet in enumerate(public))
    base = (vpc, gateway, attachment, routes, way_out, *public, *joined)
    # A host needs its subnet's route as well as the gateway's: both come before it.
    ways_out = (way_out.title, *(each.title for each in joined))
    if not config.network.private_subnets:
        return Network(vpc, public, public, _zones(config), ways_out, (*base, _bucket_endpoint(vpc, (routes,))))
    hosts = tuple(_subnet(config, vpc, index, is_public=False) for index in range(count))
    private = _private(config, vpc, public, hosts)
    return Network(vpc, public, hosts, _zones(config), private.ways_out, (*base, *hosts, *private.resources))


@dataclass(frozen=True, slots=True)
class _Private:
    ways_out: tuple[str, ...]
    resources: tuple[AWSObject, ...]


def _private(
    config: StackConfig, vpc: ec2.VPC, public: tuple[ec2.Subnet, ...], hosts: tuple[ec2.Subnet, ...]
) -> _Private:
    nats: list[AWSObject] = []
    tables: list[ec2.RouteTable] = []
    routes: list[AWSObject] = []
    for index in range(len(public) if config.network.nat_per_zone else 1):
        number = index + 1
        address = ec2.EIP(f"NatAddress{number}", Domain="vpc", DependsOn=["GatewayAttachment"])
        nat = ec2.NatGateway(
            f"Nat{number}",
            AllocationId=GetAtt(address, "AllocationId"),
            SubnetId=Ref(public[index]),
            Tags=_named("nat"),
        )
        table = ec2.RouteTable(f"PrivateRoutes{number}", VpcId=Ref(vpc), Tags=_named("private"))
        route = ec2.Route(
            f"PrivateDefaultRoute{number}",
            RouteTableId=Ref(table),
            DestinationCidrBlock="0.0.0.0/0",
            NatGatewayId=Ref(nat),
        )
        nats += [address, nat]
        tables.append(table)
        routes.append(route)
    routes += [
        _join(f"PrivateSubnetRoutes{index + 1}", subnet, tables[index % len(tables)])
        for index, subnet in enumerate(hosts)
    ]
    endpoint = _bucket_endpoint(vpc, tuple(tables))
    return _Private(tuple(each.title for each in routes), (*nats, *tables, *routes, endpoint))


def _zones(config: StackConfig) -> tuple[Any, ...]:
    named = config.network.zones
    return named or tuple(Select(index, GetAZs("")) for index in range(config.network.zone_count))


def _subnet(config: StackConfig, vpc: ec2.VPC, index: int, *, is_public: bool) -> ec2.Subnet:
    blocks = list(config.network.cidr.subnets(new_prefix=SUBNET_PREFIX))
    kind, offset = ("Public", 1) if is_public else ("Private", 1 + config.network.zone_count)
    return ec2.Subnet(
        f"{kind}Subnet{index + 1}",
        VpcId=Ref(vpc),
        CidrBlock=str(blocks[index + offset]),
        AvailabilityZone=_zones(config)[index],
        MapPublicIpOnLaunch=is_public,
        Tags=_named(kind.lower()),
    )


def _join(title: str, subnet: ec2.Subnet, table: ec2.RouteTable) -> ec2.SubnetRouteTableAssociation:
    return ec2.SubnetRouteTableAssociation(title, SubnetId=Ref(subnet), RouteTableId=Ref(table))


def _bucket_endpoint(vpc: ec2.VPC, tables: tuple[ec2.RouteTable, ...]) -> ec2.VPCEndpoint:
    """Image layers in ECR are objects in S3: this way costs nothing."""
    return ec2.VPCEndpoint(
        "BucketEndpoint",
        VpcId=Ref(vpc),
        ServiceName=Sub("com.amazonaws.${Region}.s3", Region=Region),
        RouteTableIds=[Ref(table) for table in tables],
    )


def _named(what: str) -> Tags:
    return Tags(Name=Sub("${AWS::StackName}-" + what))

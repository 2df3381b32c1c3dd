"""The private zone in which Consul servers are called ``consul.<availability zone>.<domain>``, and the log group."""

from dataclasses import dataclass

from troposphere import AWSObject, Ref, Region, Sub, logs, route53

from infra.config import StackConfig
from infra.template.network import Network


@dataclass(frozen=True, slots=True)
class Dns:
    """The zone; the servers themselves write its records."""

    zone: route53.HostedZone
    resources: tuple[AWSObject, ...]


def build(config: StackConfig, network: Network) -> Dns:
    """Return the private zone of the VPC."""
    zone = route53.HostedZone(
        "PrivateZone",
        Name=f"{config.domain}.",
        HostedZoneConfig=route53.HostedZoneConfiguration(Comment=Sub("Consul servers of ${AWS::StackName}")),
        VPCs=[route53.HostedZoneVPCs(VPCId=Ref(network.vpc), VPCRegion=Region)],
    )
    return Dns(zone, (zone,))


def log_group(config: StackConfig) -> logs.LogGroup:
    """Return the group that boots of machines are written to; it outlives the stack."""
    return logs.LogGroup(
        "Logs",
        LogGroupName=Sub("/tidegate/${AWS::StackName}"),
        RetentionInDays=config.log_days,
        DeletionPolicy="Retain",
        UpdateReplacePolicy="Retain",
    )

"""Security groups: the world reaches the balancer, the balancer the hosts, Consul itself, and nobody else anything."""

from dataclasses import dataclass

from troposphere import AWSObject, GetAtt, Ref, Sub, Tags, ec2

from infra.config import StackConfig
from infra.template.network import Network
from infra.template.parameters import HAS_CERTIFICATE

CONSUL_RPC, CONSUL_GOSSIP = 8300, 8301
WEB_PORT = 80
WORLD = "0.0.0.0/0"


@dataclass(frozen=True, slots=True)
class Security:
    """Who may talk to whom."""

    balancer: ec2.SecurityGroup
    web: ec2.SecurityGroup
    consul: ec2.SecurityGroup
    """Of all machines that run a Consul agent."""
    ssh: ec2.SecurityGroup | None
    resources: tuple[AWSObject, ...]

    def of_web(self) -> list[Ref]:
        """Return the groups of a web host."""
        return [Ref(group) for group in (self.web, self.consul, self.ssh) if group is not None]

    def of_consul(self) -> list[Ref]:
        """Return the groups of a Consul server."""
        return [Ref(group) for group in (self.consul, self.ssh) if group is not None]


def build(config: StackConfig, network: Network) -> Security:
    """Return the groups and their rules; each rule is a resource of its own, so groups may name each other."""
    balancer = _group("BalancerGroup", network, "Load balancer: HTTP and HTTPS from the world")
    web = _group("WebGroup", network, "Web hosts: HTTP from the load balancer")
    consul = _group("ConsulGroup", network, "Consul agents: RPC and gossip among themselves")
    rules = [
        _ingress("BalancerHttp", balancer, ("tcp", 80), world=True),
        _ingress("BalancerHttps", balancer, ("tcp", 443), world=True),
        ec2.SecurityGroupEgress(
            "BalancerToWeb",
            GroupId=GetAtt(balancer, "GroupId"),
            IpProtocol="tcp",
            FromPort=WEB_PORT,
            ToPort=WEB_PORT,
            DestinationSecurityGroupId=GetAtt(web, "GroupId"),
        ),
        _ingress("WebFromBalancer", web, ("tcp", WEB_PORT), source=balancer),
        _ingress("ConsulRpc", consul, ("tcp", CONSUL_RPC), source=consul),
        _ingress("ConsulGossipTcp", consul, ("tcp", CONSUL_GOSSIP), source=consul),
        # Without UDP, members are taken for dead and back.
        _ingress("ConsulGossipUdp", consul, ("udp", CONSUL_GOSSIP), source=consul),
    ]
    rules[1].Condition = HAS_CERTIFICATE
    ssh = None
    if config.network.ssh_cidrs:
        ssh = _group("SshGroup", network, "SSH from the addresses in the environment")
        for number, cidr in enumerate(config.network.ssh_cidrs, start=1):
            rule = _ingress(f"Ssh{number}", ssh, ("tcp", 22))
            rule.CidrIp = str(cidr)
            rules.append(rule)
    groups = [group for group in (balancer, web, consul, ssh) if group is not None]
    return Security(balancer, web, consul, ssh, (*groups, *rules))


def _group(title: str, network: Network, description: str) -> ec2.SecurityGroup:
    group = ec2.SecurityGroup(
        title,
        VpcId=Ref(network.vpc),
        GroupDescription=description,
        Tags=Tags(Name=Sub("${AWS::StackName}-" + title)),
    )
    if title == "BalancerGroup":
        # Without a rule of its own a group lets everything out: this one stands for "nothing", the other rule adds.
        group.SecurityGroupEgress = [
            ec2.SecurityGroupRule(IpProtocol="-1", CidrIp="127.0.0.1/32"),
        ]
    return group


def _ingress(
    title: str,
    group: ec2.SecurityGroup,
    port: tuple[str, int],
    *,
    source: ec2.SecurityGroup | None = None,
    world: bool = False,
) -> ec2.SecurityGroupIngress:
    rule = ec2.SecurityGroupIngress(
        title, GroupId=GetAtt(group, "GroupId"), IpProtocol=port[0], FromPort=port[1], ToPort=port[1]
    )
    if source is not None:
        rule.SourceSecurityGroupId = GetAtt(source, "GroupId")
    if world:
        rule.CidrIp = WORLD
    return rule

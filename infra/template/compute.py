"""Launch templates and auto-scaling groups of both tiers."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from troposphere import AWSObject, Base64, GetAtt, Ref, StackName, Sub, ec2
from troposphere import autoscaling as asg
from troposphere.policies import AutoScalingRollingUpdate, CreationPolicy, ResourceSignal, UpdatePolicy

from infra.config import StackConfig, Tier
from infra.template.balancer import Balancer
from infra.template.iam import CONSUL_GROUP, WEB_GROUP, Roles
from infra.template.network import Network
from infra.template.security import Security

LAUNCH_HOOK, LEAVE_HOOK = "serving", "leave"
CONSUL_LEAVE_S = 180
HEALTH_GRACE_S = 90
LAUNCHING, TERMINATING = "autoscaling:EC2_INSTANCE_LAUNCHING", "autoscaling:EC2_INSTANCE_TERMINATING"
_SUSPENDED = ["HealthCheck", "ReplaceUnhealthy", "AZRebalance", "AlarmNotification", "ScheduledActions"]
"""While a rolling update is at work, nothing else replaces hosts."""


@dataclass(frozen=True, slots=True)
class Compute:
    """The machines."""

    web: asg.AutoScalingGroup
    consul: asg.AutoScalingGroup
    resources: tuple[AWSObject, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """What both tiers build on."""

    config: StackConfig
    network: Network
    security: Security
    roles: Roles


def build(config: StackConfig, network: Network, security: Security, balancer: Balancer, roles: Roles) -> Compute:
    """Return both groups. The web group waits for Consul and for a listener on its target group."""
    place = _Place(config, network, security, roles)
    consul_template = _template(place, "ConsulTemplate", config.consul)
    consul = _consul_group(place, consul_template)
    web_template = _template(place, "WebTemplate", config.web)
    web = _web_group(place, web_template, balancer, after=(consul.title,))
    return Compute(web, consul, (consul_template, consul, web_template, web))


def user_data() -> str:
    """Return the script of the first boot, with CloudFormation's ``${...}`` in it."""
    return files("infra").joinpath("userdata", "host.sh").read_text(encoding="utf-8")


def _template(place: _Place, title: str, tier: Tier) -> ec2.LaunchTemplate:
    is_web = tier is place.config.web
    role, group = ("web", WEB_GROUP) if is_web else ("consul", CONSUL_GROUP)
    data = ec2.LaunchTemplateData(
        ImageId=Ref("ImageId"),
        InstanceType=tier.instance_type,
        IamInstanceProfile=ec2.IamInstanceProfile(
            Arn=GetAtt(place.roles.web if is_web else place.roles.consul, "Arn"),
        ),
        SecurityGroupIds=place.security.of_web() if is_web else place.security.of_consul(),
        MetadataOptions=ec2.MetadataOptions(
            HttpEndpoint="enabled",
            HttpTokens="required",
            # One hop: what runs in a container cannot take the host's role.
            HttpPutResponseHopLimit=1,
        ),
        BlockDeviceMappings=[
            ec2.LaunchTemplateBlockDeviceMapping(
                DeviceName=place.config.image.root_device,
                Ebs=ec2.EBSBlockDevice(
                    VolumeType="gp3", VolumeSize=tier.disk_gb, Encrypted=True, DeleteOnTermination=True
                ),
            ),
        ],
        UserData=Base64(Sub(user_data(), Role=role, Group=group)),
    )
    if place.config.network.ssh_cidrs and place.config.network.key_name:
        data.KeyName = place.config.network.key_name
    return ec2.LaunchTemplate(title, LaunchTemplateData=data)


def _web_group(
    place: _Place, template: ec2.LaunchTemplate, balancer: Balancer, after: Sequence[str]
) -> asg.AutoScalingGroup:
    tier = place.config.web
    group = _group(place, WEB_GROUP, template, tier)
    group.MaxSize = str(tier.max_count)
    group.TargetGroupARNs = [Ref(balancer.targets)]
    group.HealthCheckType = "ELB"
    group.HealthCheckGracePeriod = HEALTH_GRACE_S
    # In the group's own list: a hook that is a resource of its own misses the first instances.
    group.LifecycleHookSpecificationList = [
        # Below the time CloudFormation waits, so that the hook's own end is what one sees.
        _hook(LAUNCH_HOOK, LAUNCHING, "ABANDON", tier.boot_minutes * 60),
        _hook(LEAVE_HOOK, TERMINATING, "CONTINUE", tier.drain_minutes * 60),
    ]
    group.UpdatePolicy = _rolling(tier, at_least=tier.count)
    group.DependsOn = [*place.network.ways_out, *after, *balancer.listeners]
    return group


def _consul_group(place: _Place, template: ec2.LaunchTemplate) -> asg.AutoScalingGroup:
    tier = place.config.consul
    group = _group(place, CONSUL_GROUP, template, tier)
    group.MaxSize = str(tier.count)
    group.HealthCheckType = "EC2"
    group.LifecycleHookSpecificationList = [_hook(LEAVE_HOOK, TERMINATING, "CONTINUE", CONSUL_LEAVE_S)]
    group.UpdatePolicy = _rolling(tier, at_least=tier.count - 1)
    group.DependsOn = [*place.network.ways_out, "SharedSettings"]
    return group


def _group(place: _Place, title: str, template: ec2.LaunchTemplate, tier: Tier) -> asg.AutoScalingGroup:
    name = "consul-server" if title == CONSUL_GROUP else "web"
    return asg.AutoScalingGroup(
        title,
        MinSize=str(tier.count),
        DesiredCapacity=str(tier.count),
        VPCZoneIdentifier=[Ref(subnet) for subnet in place.network.hosts],
        LaunchTemplate=asg.LaunchTemplateSpecification(
            LaunchTemplateId=Ref(template), Version=GetAtt(template, "LatestVersionNumber")
        ),
        # A stack's own tag as well: otherwise the servers of a second stack in the account would join.
        Tags=asg.Tags(Name=name) + asg.Tags(Stack=StackName),
        CreationPolicy=CreationPolicy(ResourceSignal=ResourceSignal(Count=tier.count, Timeout=_timeout(tier))),
    )


def _hook(name: str, transition: str, default: str, seconds: int) -> asg.LifecycleHookSpecification:
    return asg.LifecycleHookSpecification(
        LifecycleHookName=name, LifecycleTransition=transition, DefaultResult=default, HeartbeatTimeout=seconds
    )


def _rolling(tier: Tier, *, at_least: int) -> UpdatePolicy:
    return UpdatePolicy(
        AutoScalingRollingUpdate=AutoScalingRollingUpdate(
            MinInstancesInService=str(at_least),
            MaxBatchSize="1",
            WaitOnResourceSignals=True,
            PauseTime=_timeout(tier),
            SuspendProcesses=_SUSPENDED,
        ),
    )


def _timeout(tier: Tier) -> str:
    return f"PT{tier.boot_minutes + 5}M"

"""One role for each tier, with no more than it does."""

from dataclasses import dataclass
from typing import Any

from troposphere import AWSObject, Ref, StackId, Sub, iam

from infra.config import App, StackConfig
from infra.template.dns import Dns

WEB_GROUP, CONSUL_GROUP = "WebHosts", "ConsulServers"
"""Logical names of the auto-scaling groups; policies name them by pattern, as a reference would be a cycle."""
SESSION_MANAGER = "arn:${AWS::Partition}:iam::aws:policy/AmazonSSMManagedInstanceCore"
_PARAMETERS = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter/tidegate/${AWS::StackName}/"
_LOGS = "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:/tidegate/${AWS::StackName}:*"


@dataclass(frozen=True, slots=True)
class Roles:
    """What machines may do."""

    web: iam.InstanceProfile
    consul: iam.InstanceProfile
    resources: tuple[AWSObject, ...]


def build(config: StackConfig, dns: Dns) -> Roles:
    """
    Return both tiers' roles and instance profiles.

    Consul servers pull nothing, but their coordinators ask the registry which digest a tag stands for.
    """
    web = _role("WebRole", [*_both(WEB_GROUP), _read_parameters("shared", "web"), *_pull(config.app)])
    consul = _role("ConsulRole", [*_both(CONSUL_GROUP), _keep_parameters(), *_names(config, dns), *_pull(config.app)])
    for_web = iam.InstanceProfile("WebProfile", Roles=[Ref(web)])
    for_consul = iam.InstanceProfile("ConsulProfile", Roles=[Ref(consul)])
    return Roles(for_web, for_consul, (web, consul, for_web, for_consul))


def _role(title: str, statements: list[dict[str, Any]]) -> iam.Role:
    return iam.Role(
        title,
        AssumeRolePolicyDocument={
            "Version": "2012-10-17",
            "Statement": [_allow("sts:AssumeRole", Principal={"Service": "ec2.amazonaws.com"})],
        },
        ManagedPolicyArns=[Sub(SESSION_MANAGER)],
        Policies=[
            iam.Policy(PolicyName="tidegate", PolicyDocument={"Version": "2012-10-17", "Statement": statements}),
        ],
    )


def _allow(*actions: str, on: Any = None, **more: Any) -> dict[str, Any]:
    statement: dict[str, Any] = {"Effect": "Allow", "Action": list(actions), **more}
    return statement if on is None else statement | {"Resource": on}


def _both(group: str) -> list[dict[str, Any]]:
    groups = (
        "arn:${AWS::Partition}:autoscaling:${AWS::Region}:${AWS::AccountId}:autoScalingGroup:*"
        f":autoScalingGroupName/${{AWS::StackName}}-{group}-*"
    )
    return [
        # No resource level exists for these two.
        _allow("ec2:DescribeInstances", "autoscaling:DescribeAutoScalingInstances", on="*"),
        _allow("autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat", on=Sub(groups)),
        _allow("cloudformation:SignalResource", on=StackId),
        _allow("logs:CreateLogStream", "logs:PutLogEvents", on=Sub(_LOGS)),
    ]


def _read_parameters(*folders: str) -> dict[str, Any]:
    return _allow("ssm:GetParameter", on=[Sub(f"{_PARAMETERS}{folder}/*") for folder in folders])


def _keep_parameters() -> dict[str, Any]:
    """Return what the bootstrap needs: whoever is root on a Consul server has all of Consul in any case."""
    return _allow("ssm:GetParameter", "ssm:PutParameter", on=Sub(f"{_PARAMETERS}*"))


def _pull(app: App) -> list[dict[str, Any]]:
    if not app.repositories:
        return []
    prefix = "arn:${AWS::Partition}:ecr:${AWS::Region}:${AWS::AccountId}:repository/"
    actions = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")
    return [
        _allow("ecr:GetAuthorizationToken", on="*"),
        _allow(*actions, on=[Sub(prefix + name) for name in app.repositories]),
    ]


def _names(config: StackConfig, dns: Dns) -> list[dict[str, Any]]:
    zone = Sub("arn:${AWS::Partition}:route53:::hostedzone/${Zone}", Zone=Ref(dns.zone))
    only = {
        "route53:ChangeResourceRecordSetsNormalizedRecordNames": [f"consul.*.{config.domain}"],
        "route53:ChangeResourceRecordSetsRecordTypes": ["CNAME"],
        "route53:ChangeResourceRecordSetsActions": ["UPSERT", "DELETE"],
    }
    like = {key: value for key, value in only.items() if "Names" in key}
    same = {key: value for key, value in only.items() if "Names" not in key}
    return [
        _allow(
            "route53:ChangeResourceRecordSets",
            on=zone,
            Condition={"ForAllValues:StringLike": like, "ForAllValues:StringEquals": same},
        ),
        _allow("route53:ListResourceRecordSets", on=zone),
    ]

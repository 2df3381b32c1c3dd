"""The application load balancer: health by HAProxy's own word, HTTPS where there is a certificate."""

from dataclasses import dataclass

from troposphere import AWSObject, GetAtt, If, Ref, StackName, Sub, Tags
from troposphere import elasticloadbalancingv2 as elb

from infra.config import ALB_IDLE_S, StackConfig
from infra.template.network import Network
from infra.template.parameters import HAS_CERTIFICATE
from infra.template.security import WEB_PORT, Security

DEREGISTRATION_S = 30
HEALTH_INTERVAL_S, HEALTH_TIMEOUT_S, HEALTH_COUNT = 5, 3, 2
TLS_POLICY = "ELBSecurityPolicy-TLS13-1-2-2021-06"


@dataclass(frozen=True, slots=True)
class Balancer:
    """Where visitors come in."""

    load_balancer: elb.LoadBalancer
    targets: elb.TargetGroup
    listeners: tuple[str, ...]
    """A target group must be on one before a group with its health checks settles."""
    resources: tuple[AWSObject, ...]


def build(config: StackConfig, network: Network, security: Security) -> Balancer:
    """
    Return the balancer.

    No stickiness: the visitor's cookie names a release that every host knows. Health is HAProxy's answer for the
    app: 200 while a release serves, and on a host that was told nothing yet (the holding page).
    """
    load_balancer = _load_balancer(config, network, security)
    targets = _targets(config, network)
    http, https = _listeners(load_balancer, targets)
    return Balancer(load_balancer, targets, (http.title,), (load_balancer, targets, http, https))


def url(balancer: Balancer) -> If:
    """Return where visitors go."""
    name = GetAtt(balancer.load_balancer, "DNSName")
    return If(HAS_CERTIFICATE, Sub("https://${Name}/", Name=name), Sub("http://${Name}/", Name=name))


def _load_balancer(config: StackConfig, network: Network, security: Security) -> elb.LoadBalancer:
    return elb.LoadBalancer(
        "Balancer",
        Type="application",
        Scheme="internet-facing",
        Subnets=[Ref(subnet) for subnet in network.public],
        SecurityGroups=[Ref(security.balancer)],
        LoadBalancerAttributes=[
            elb.LoadBalancerAttributes(Key="idle_timeout.timeout_seconds", Value=str(ALB_IDLE_S)),
            elb.LoadBalancerAttributes(Key="routing.http.drop_invalid_header_fields.enabled", Value="true"),
            elb.LoadBalancerAttributes(Key="deletion_protection.enabled", Value=str(config.protect).lower()),
        ],
        Tags=Tags(Name=StackName),
        # Subnets without a way to the internet cannot take it.
        DependsOn=["GatewayAttachment"],
    )


def _targets(config: StackConfig, network: Network) -> elb.TargetGroup:
    return elb.TargetGroup(
        "Targets",
        VpcId=Ref(network.vpc),
        TargetType="instance",
        Protocol="HTTP",
        Port=WEB_PORT,
        HealthCheckPath=f"/_lb/{config.app.name}",
        HealthCheckIntervalSeconds=HEALTH_INTERVAL_S,
        HealthCheckTimeoutSeconds=HEALTH_TIMEOUT_S,
        HealthyThresholdCount=HEALTH_COUNT,
        UnhealthyThresholdCount=HEALTH_COUNT,
        Matcher=elb.Matcher(HttpCode="200"),
        TargetGroupAttributes=[
            elb.TargetGroupAttribute(Key="deregistration_delay.timeout_seconds", Value=str(DEREGISTRATION_S)),
            elb.TargetGroupAttribute(Key="stickiness.enabled", Value="false"),
        ],
        Tags=Tags(Name=Sub("${AWS::StackName}-web")),
    )


def _listeners(load_balancer: elb.LoadBalancer, targets: elb.TargetGroup) -> tuple[elb.Listener, elb.Listener]:
    forward = elb.Action(Type="forward", TargetGroupArn=Ref(targets))
    redirect = elb.Action(
        Type="redirect",
        RedirectConfig=elb.RedirectConfig(Protocol="HTTPS", Port="443", StatusCode="HTTP_301"),
    )
    http = elb.Listener(
        "HttpListener",
        LoadBalancerArn=Ref(load_balancer),
        Protocol="HTTP",
        Port=80,
        DefaultActions=[If(HAS_CERTIFICATE, redirect, forward)],
    )
    https = elb.Listener(
        "HttpsListener",
        Condition=HAS_CERTIFICATE,
        LoadBalancerArn=Ref(load_balancer),
        Protocol="HTTPS",
        Port=443,
        SslPolicy=TLS_POLICY,
        Certificates=[elb.Certificate(CertificateArn=Ref("CertificateArn"))],
        DefaultActions=[forward],
    )
    return http, https

"""``build(config)``: the only place that touches a Template."""

import json
from typing import Any

from troposphere import Join, Output, Ref, Sub, Template, ssm

from infra.config import StackConfig
from infra.template import balancer, compute, dns, iam, network, security
from infra.template.balancer import url
from infra.template.compute import LAUNCH_HOOK, LEAVE_HOOK
from infra.template.parameters import conditions, interface, parameters

LIMIT_BYTES = 51_200
"""What ``--template-body`` takes."""


def build(config: StackConfig) -> Template:
    """Return the stack of *config*; the same each time."""
    net = network.build(config)
    sec = security.build(config, net)
    alb = balancer.build(config, net, sec)
    names = dns.build(config, net)
    roles = iam.build(config, names)
    hosts = compute.build(config, net, sec, alb, roles)
    logs = dns.log_group(config)
    settings = shared_settings(config, net, names)
    template = Template()
    template.set_version()
    template.set_description("Tidegate: hosts behind a load balancer, Consul servers, a private DNS zone")
    template.set_metadata(interface())
    for parameter in parameters(config):
        template.add_parameter(parameter)
    for name, condition in conditions().items():
        template.add_condition(name, condition)
    tiers = (net, sec, alb, names, roles)
    for resource in (*(each for tier in tiers for each in tier.resources), logs, settings, *hosts.resources):
        template.add_resource(resource)
    for output in _outputs(net, alb, names, hosts, config):
        template.add_output(output)
    return template


def render(config: StackConfig) -> str:
    """Return the template as JSON, in a fixed order, small enough for ``--template-body``."""
    return json.dumps(build(config).to_dict(), indent=1, sort_keys=True) + "\n"


def shared_settings(config: StackConfig, net: network.Network, names: dns.Dns) -> ssm.Parameter:
    """
    Return the parameter in which every machine reads, at boot, what is the same for all; no secrets.

    Not in user-data: a changed knob would replace every machine.
    """
    app = config.app.model_dump(mode="json", exclude={"repositories"})
    settings: dict[str, Any] = {
        "domain": config.domain,
        "servers": config.consul.count,
        "zone_id": "${ZoneId}",
        "zones": "${Zones}",
        "initial_image": "${InitialImage}",
        "launch_hook": LAUNCH_HOOK,
        "leave_hook": LEAVE_HOOK,
        # Below the hooks' own times: so the host itself says how it ended.
        "launch_timeout_s": config.web.boot_minutes * 60 - 60,
        "leave_timeout_s": config.web.drain_minutes * 60 - 30,
        "app": app,
    }
    zones = Join(" ", list(net.zones))
    return ssm.Parameter(
        "SharedSettings",
        Type="String",
        Name=Sub("/tidegate/${AWS::StackName}/shared/settings"),
        Description="What every machine of the stack reads at boot",
        Value=Sub(json.dumps(settings), ZoneId=Ref(names.zone), Zones=zones),
    )


def _outputs(
    net: network.Network, alb: balancer.Balancer, names: dns.Dns, hosts: compute.Compute, config: StackConfig
) -> list[Output]:
    return [
        Output("Url", Description="Where visitors go", Value=url(alb)),
        Output("VpcId", Value=Ref(net.vpc)),
        Output("ZoneId", Description="Private DNS zone", Value=Ref(names.zone)),
        Output("ZoneName", Value=config.domain),
        Output("ConsulGroup", Description="Auto-scaling group of the Consul servers", Value=Ref(hosts.consul)),
        Output("WebGroup", Description="Auto-scaling group of the web hosts", Value=Ref(hosts.web)),
        Output("TargetGroupArn", Value=Ref(alb.targets)),
    ]

"""
What neither cfn-lint nor Troposphere sees: one function for each property, from a template to what breaks it.

An empty list is good.
"""

import json
import re

from infra.config import ALB_IDLE_S
from infra.template.stack import LIMIT_BYTES
from tests.infra.cases import ROOT, Template
from tests.infra.reading import groups, id_of, launch_data, of_type, references, seconds, statements

_PSEUDO = {"AWS::Region", "AWS::StackName", "AWS::StackId", "AWS::AccountId", "AWS::Partition", "AWS::NoValue"}
_ON_ALL = {"ec2:DescribeInstances", "autoscaling:DescribeAutoScalingInstances", "ecr:GetAuthorizationToken"}


def only_the_balancer_is_open_to_the_world(template: Template) -> list[str]:
    rules = of_type(template, "EC2::SecurityGroupIngress")
    wide = {name for name, rule in rules.items() if str(rule.get("CidrIp", "")).endswith("/0") or "CidrIpv6" in rule}
    return [f"open to the world: {name}" for name in wide ^ {"BalancerHttp", "BalancerHttps"}]


def rules_are_resources_of_their_own(template: Template) -> list[str]:
    groups = of_type(template, "EC2::SecurityGroup")
    return [f"{name} has rules inside" for name, group in groups.items() if "SecurityGroupIngress" in group]


def the_balancer_talks_to_hosts_only(template: Template) -> list[str]:
    group = of_type(template, "EC2::SecurityGroup")["BalancerGroup"]
    nothing = [{"CidrIp": "127.0.0.1/32", "IpProtocol": "-1"}]
    rules = of_type(template, "EC2::SecurityGroupEgress")
    problems = [] if group.get("SecurityGroupEgress") == nothing else ["the balancer may talk to anyone"]
    if [rule.get("DestinationSecurityGroupId") for rule in rules.values()] != [id_of("WebGroup")]:
        problems.append("the balancer's way out is not to the web hosts")
    return problems


def hosts_take_web_traffic_from_the_balancer_only(template: Template) -> list[str]:
    rules = of_type(template, "EC2::SecurityGroupIngress")
    web = [rule for rule in rules.values() if rule["GroupId"] == id_of("WebGroup")]
    good = len(web) == 1 and web[0].get("SourceSecurityGroupId") == id_of("BalancerGroup") and web[0]["ToPort"] == 80
    return [] if good else ["web hosts take traffic from elsewhere"]


def gossip_has_udp_and_rpc_has_not(template: Template) -> list[str]:
    rules = of_type(template, "EC2::SecurityGroupIngress").values()
    mine = [rule for rule in rules if rule["GroupId"] == id_of("ConsulGroup")]
    ports = {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in mine}
    problems = [] if ports == {("tcp", 8300, 8300), ("tcp", 8301, 8301), ("udp", 8301, 8301)} else [f"ports {ports}"]
    if any(rule.get("SourceSecurityGroupId") != id_of("ConsulGroup") for rule in mine):
        problems.append("Consul is reachable from outside its own group")
    return problems


def metadata_needs_a_token_and_stays_on_the_host(template: Template) -> list[str]:
    problems = []
    for name, data in launch_data(template):
        options = data.get("MetadataOptions", {})
        if options.get("HttpTokens") != "required" or options.get("HttpPutResponseHopLimit") != 1:
            problems.append(f"{name}: metadata without token, or from containers")
    return problems


def disks_are_encrypted_gp3(template: Template) -> list[str]:
    problems = []
    for name, data in launch_data(template):
        disks = [mapping.get("Ebs", {}) for mapping in data.get("BlockDeviceMappings", [])]
        if not disks or any(disk.get("VolumeType") != "gp3" or disk.get("Encrypted") is not True for disk in disks):
            problems.append(f"{name}: a disk is not encrypted gp3")
    return problems


def no_right_is_wider_than_its_use(template: Template) -> list[str]:
    problems = []
    for name, statement in statements(template):
        actions = statement["Action"]
        if any("*" in action for action in actions):
            problems.append(f"{name}: {actions}")
        if statement.get("Resource") == "*" and not set(actions) <= _ON_ALL:
            problems.append(f"{name}: {actions} on everything")
    return problems


def web_hosts_read_no_secret_but_theirs(template: Template) -> list[str]:
    problems = []
    for name, statement in statements(template):
        if name == "WebRole" and any(action.startswith("ssm:") for action in statement["Action"]):
            folders = {json.dumps(each).rpartition("}/")[2].strip('"}') for each in statement["Resource"]}
            if folders != {"shared/*", "web/*"} or statement["Action"] != ["ssm:GetParameter"]:
                problems.append(f"web hosts: {statement['Action']} on {sorted(folders)}")
        if name == "WebRole" and any("route53" in action for action in statement["Action"]):
            problems.append("web hosts may write names")
    return problems


def names_that_servers_write_are_confined(template: Template) -> list[str]:
    for _, statement in statements(template):
        if "route53:ChangeResourceRecordSets" in statement["Action"]:
            text = json.dumps(statement.get("Condition", {}))
            wanted = ("consul.*.", '"CNAME"', '"UPSERT"', "RecordNames", "RecordTypes", "RecordSetsActions")
            return [f"no condition {part}" for part in wanted if part not in text]
    return ["servers cannot write names"]


def groups_wait_for_signals_and_a_way_out(template: Template) -> list[str]:
    problems = []
    routes = {name for name, each in template["Resources"].items() if each["Type"] == "AWS::EC2::Route"}
    for name, group in groups(template).items():
        policies = "CreationPolicy" in group and "UpdatePolicy" in group
        rolling = group.get("UpdatePolicy", {}).get("AutoScalingRollingUpdate", {})
        if not policies or rolling.get("WaitOnResourceSignals") is not True:
            problems.append(f"{name}: nobody waits for its machines")
        used = routes & set(group.get("DependsOn", []))
        private = any(route.startswith("Private") for route in routes)
        if not used or (private and not any(route.startswith("Private") for route in used)):
            problems.append(f"{name}: may boot before there is a way out")
    return problems


def web_hosts_come_after_consul_and_the_listener(template: Template) -> list[str]:
    missing = {"ConsulServers", "HttpListener"} - set(groups(template)["WebHosts"].get("DependsOn", []))
    return [f"web hosts do not wait for {name}" for name in sorted(missing)]


def hooks_are_in_the_group_and_end_in_time(template: Template) -> list[str]:
    problems = [f"{name}: outside its group" for name in of_type(template, "AutoScaling::LifecycleHook")]
    wanted = {"WebHosts": {"serving": "ABANDON", "leave": "CONTINUE"}, "ConsulServers": {"leave": "CONTINUE"}}
    for name, group in groups(template).items():
        hooks = group["Properties"].get("LifecycleHookSpecificationList", [])
        if {hook["LifecycleHookName"]: hook["DefaultResult"] for hook in hooks} != wanted[name]:
            problems.append(f"{name}: other hooks")
        timeout = seconds(group.get("CreationPolicy", {}).get("ResourceSignal", {}).get("Timeout", "PT0S"))
        for hook in hooks:
            if hook["LifecycleTransition"] not in {
                "autoscaling:EC2_INSTANCE_LAUNCHING",
                "autoscaling:EC2_INSTANCE_TERMINATING",
            }:
                problems.append(f"{name}: {hook['LifecycleTransition']}")
            if hook["LifecycleTransition"].endswith("LAUNCHING") and hook["HeartbeatTimeout"] >= timeout:
                problems.append(f"{name}: the hook outlives CloudFormation's patience")
    return problems


def a_rolling_update_keeps_what_is_needed(template: Template) -> list[str]:
    problems = []
    for name, group in groups(template).items():
        rolling = group.get("UpdatePolicy", {}).get("AutoScalingRollingUpdate", {})
        properties = group["Properties"]
        at_least, most = int(rolling.get("MinInstancesInService", 0)), int(properties["MaxSize"])
        wanted = int(properties["DesiredCapacity"]) - (name == "ConsulServers")
        if rolling.get("MaxBatchSize") != "1" or at_least < wanted or at_least >= most:
            problems.append(f"{name}: {rolling}")
        # CloudFormation refuses more than an hour, and only when it updates.
        if seconds(rolling.get("PauseTime", "PT0S")) > 3600:
            problems.append(f"{name}: waits for {rolling['PauseTime']}")
    return problems


def only_web_hosts_are_judged_by_the_balancer(template: Template) -> list[str]:
    kinds = {name: group["Properties"].get("HealthCheckType") for name, group in groups(template).items()}
    return [] if kinds == {"WebHosts": "ELB", "ConsulServers": "EC2"} else [f"health checks: {kinds}"]


def health_is_asked_of_the_proxy_in_time(template: Template) -> list[str]:
    problems = []
    for name, targets in of_type(template, "ElasticLoadBalancingV2::TargetGroup").items():
        if targets["HealthCheckTimeoutSeconds"] >= targets["HealthCheckIntervalSeconds"]:
            problems.append(f"{name}: the timeout is no shorter than the interval")
        if not str(targets["HealthCheckPath"]).startswith("/_lb/"):
            problems.append(f"{name}: asks the app, not the proxy")
        attributes = {each["Key"]: each["Value"] for each in targets["TargetGroupAttributes"]}
        if attributes.get("stickiness.enabled") != "false":
            problems.append(f"{name}: sticky")
    return problems


def the_balancer_closes_idle_connections_first(template: Template) -> list[str]:
    text = (ROOT / "haproxy" / "haproxy.cfg").read_text()
    keeps = [int(found) for found in re.findall(r"^\s*timeout (?:client|http-keep-alive) (\d+)s", text, re.MULTILINE)]
    problems = [] if len(keeps) == 2 and min(keeps) > ALB_IDLE_S else [f"HAProxy keeps {keeps} s"]
    for name, balancer in of_type(template, "ElasticLoadBalancingV2::LoadBalancer").items():
        attributes = {each["Key"]: each["Value"] for each in balancer["LoadBalancerAttributes"]}
        if int(attributes.get("idle_timeout.timeout_seconds", 60)) >= min(keeps):
            problems.append(f"{name}: keeps connections longer than HAProxy")
    return problems


def every_reference_leads_somewhere(template: Template) -> list[str]:
    known = set(template["Resources"]) | set(template["Parameters"]) | _PSEUDO
    problems = [f"{name} is nowhere" for name in references(template) if name not in known]
    for name, resource in template["Resources"].items():
        after = resource.get("DependsOn", [])
        problems += [f"{name} waits for {each}" for each in after if each not in template["Resources"]]
    return problems


def conditional_things_are_referred_to_under_their_condition(template: Template) -> list[str]:
    loose = {name for name, each in template["Resources"].items() if "Condition" in each}
    always = {name: each for name, each in template["Resources"].items() if name not in loose}
    found = set(references({"Resources": always, "Outputs": template["Outputs"]})) & loose
    return [f"{name} may not exist" for name in sorted(found)]


def it_fits_into_template_body(template: Template) -> list[str]:
    size = len(json.dumps(template, indent=1, sort_keys=True).encode())
    return [] if size < LIMIT_BYTES else [f"{size} bytes"]


def no_name_is_fixed_that_two_stacks_would_fight_for(template: Template) -> list[str]:
    problems = []
    for name, resource in template["Resources"].items():
        for key, value in resource.get("Properties", {}).items():
            if key in {"RoleName", "GroupName", "AutoScalingGroupName", "LaunchTemplateName", "BucketName"} or (
                key in {"Name", "LogGroupName"} and isinstance(value, str) and "HostedZone" not in resource["Type"]
            ):
                problems.append(f"{name}.{key} is fixed")
    return problems


def machines_of_another_stack_are_told_apart(template: Template) -> list[str]:
    problems = []
    for name, group in groups(template).items():
        tags = {tag["Key"]: tag for tag in group["Properties"].get("Tags", [])}
        if set(tags) != {"Name", "Stack"} or tags["Stack"]["Value"] != {"Ref": "AWS::StackName"}:
            problems.append(f"{name}: tags {sorted(tags)}")
        if not all(tag.get("PropagateAtLaunch") is True for tag in tags.values()):
            problems.append(f"{name}: its machines have no tags")
    for name, data in launch_data(template):
        if "TagSpecifications" in data:
            problems.append(f"{name}: a template's own Name would hide the group's")
    return problems


def parameters_can_be_left_alone(template: Template) -> list[str]:
    return [f"{name} has no default" for name, each in template["Parameters"].items() if "Default" not in each]


def nothing_secret_is_in_user_data(template: Template) -> list[str]:
    problems = []
    for name, data in launch_data(template):
        text = json.dumps(data["UserData"]).lower()
        problems += [f"{name}: {word}" for word in ("token", "secret", "password", "curl", "apt-get") if word in text]
        if text.count("\\n") >= 30:
            problems.append(f"{name}: 30 lines or more")
    return problems


PROPERTIES = (
    only_the_balancer_is_open_to_the_world,
    rules_are_resources_of_their_own,
    the_balancer_talks_to_hosts_only,
    hosts_take_web_traffic_from_the_balancer_only,
    gossip_has_udp_and_rpc_has_not,
    metadata_needs_a_token_and_stays_on_the_host,
    disks_are_encrypted_gp3,
    no_right_is_wider_than_its_use,
    web_hosts_read_no_secret_but_theirs,
    names_that_servers_write_are_confined,
    groups_wait_for_signals_and_a_way_out,
    web_hosts_come_after_consul_and_the_listener,
    hooks_are_in_the_group_and_end_in_time,
    a_rolling_update_keeps_what_is_needed,
    only_web_hosts_are_judged_by_the_balancer,
    health_is_asked_of_the_proxy_in_time,
    the_balancer_closes_idle_connections_first,
    every_reference_leads_somewhere,
    conditional_things_are_referred_to_under_their_condition,
    it_fits_into_template_body,
    no_name_is_fixed_that_two_stacks_would_fight_for,
    machines_of_another_stack_are_told_apart,
    parameters_can_be_left_alone,
    nothing_secret_is_in_user_data,
)

"""Every property holds for every environment, and each one sees the mistake it is there for."""

import json
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.config import App, Consul, Network, StackConfig, Web
from infra.template.stack import build
from tests.infra import properties as the
from tests.infra.cases import CASES, Template, template


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("holds", the.PROPERTIES, ids=lambda each: each.__name__)
def test_property(holds: Callable[[Template], list[str]], case: str) -> None:
    assert holds(template(case)) == []


@st.composite
def environments(draw: st.DrawFn) -> StackConfig:
    """Any environment that is not refused."""
    private = draw(st.booleans())
    count = draw(st.integers(1, 8))
    return StackConfig(
        stack="any",
        network=Network(
            cidr=draw(st.sampled_from([IPv4Network("10.43.0.0/16"), IPv4Network("10.0.16.0/20")])),
            zones=draw(
                st.sampled_from([None, ("eu-west-1a", "eu-west-1b"), ("eu-west-1a", "eu-west-1b", "eu-west-1c")])
            ),
            private_subnets=private,
            nat_per_zone=private and draw(st.booleans()),
            ssh_cidrs=draw(st.sampled_from([(), (IPv4Network("203.0.113.7/32"),)])),
            key_name=draw(st.sampled_from([None, "ops"])),
        ),
        web=Web(
            count=count,
            max_count=count + draw(st.integers(1, 5)),
            boot_minutes=draw(st.integers(5, 55)),
            drain_minutes=draw(st.integers(1, 60)),
        ),
        consul=Consul(count=draw(st.sampled_from([3, 5])), boot_minutes=draw(st.integers(5, 55))),
        app=App(repositories=draw(st.sampled_from([(), ("shop/web",)]))),
        protect=draw(st.booleans()),
    )


@given(environments())
@settings(max_examples=25, deadline=None)
def test_every_property_holds_for_any_environment(config: StackConfig) -> None:
    made = json.loads(json.dumps(build(config).to_dict()))
    assert {holds.__name__: holds(made) for holds in the.PROPERTIES if holds(made)} == {}


def resource(made: Template, name: str) -> dict[str, Any]:
    found: dict[str, Any] = made["Resources"][name]["Properties"]
    return found


def data(made: Template, name: str = "WebTemplate") -> dict[str, Any]:
    found: dict[str, Any] = resource(made, name)["LaunchTemplateData"]
    return found


def statement(made: Template, role: str, action: str) -> dict[str, Any]:
    statements = resource(made, role)["Policies"][0]["PolicyDocument"]["Statement"]
    found: dict[str, Any] = next(each for each in statements if action in each["Action"])
    return found


def group(made: Template, name: str = "WebHosts") -> dict[str, Any]:
    found: dict[str, Any] = made["Resources"][name]
    return found


def ssh_for_all(made: Template) -> None:
    resource(made, "Ssh1")["CidrIp"] = "0.0.0.0/0"


def world_by_six(made: Template) -> None:
    resource(made, "WebFromBalancer")["CidrIpv6"] = "::/0"


def no_way_in(made: Template) -> None:
    # The original's: the rule named its own group, and nothing let the world in.
    rule = resource(made, "BalancerHttp")
    del rule["CidrIp"]
    rule["SourceSecurityGroupId"] = rule["GroupId"]


def inline_rules(made: Template) -> None:
    resource(made, "WebGroup")["SecurityGroupIngress"] = []


def talkative_balancer(made: Template) -> None:
    del resource(made, "BalancerGroup")["SecurityGroupEgress"]


def web_for_consul(made: Template) -> None:
    resource(made, "WebFromBalancer")["SourceSecurityGroupId"] = {"Fn::GetAtt": ["ConsulGroup", "GroupId"]}


def gossip_over_tcp_only(made: Template) -> None:
    del made["Resources"]["ConsulGossipUdp"]


def consul_for_the_web(made: Template) -> None:
    resource(made, "ConsulRpc")["SourceSecurityGroupId"] = {"Fn::GetAtt": ["WebGroup", "GroupId"]}


def metadata_without_token(made: Template) -> None:
    data(made)["MetadataOptions"]["HttpTokens"] = "optional"


def metadata_for_containers(made: Template) -> None:
    data(made, "ConsulTemplate")["MetadataOptions"]["HttpPutResponseHopLimit"] = 2


def plain_disk(made: Template) -> None:
    data(made)["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] = False


def all_actions(made: Template) -> None:
    statement(made, "ConsulRole", "route53:ListResourceRecordSets")["Action"] = ["route53:*"]


def all_resources(made: Template) -> None:
    statement(made, "WebRole", "cloudformation:SignalResource")["Resource"] = "*"


def others_secrets(made: Template) -> None:
    statement(made, "WebRole", "ssm:GetParameter")["Resource"][1]["Fn::Sub"] = "x/${AWS::StackName}/*"


def any_name(made: Template) -> None:
    del statement(made, "ConsulRole", "route53:ChangeResourceRecordSets")["Condition"]["ForAllValues:StringLike"]


def nobody_waits(made: Template) -> None:
    del group(made)["CreationPolicy"]


def too_early(made: Template) -> None:
    depends = group(made, "ConsulServers")["DependsOn"]
    depends[:] = [name for name in depends if "Route" not in name]


def no_listener_yet(made: Template) -> None:
    group(made)["DependsOn"].remove("HttpListener")


def hook_outside(made: Template) -> None:
    hooks = resource(made, "WebHosts")["LifecycleHookSpecificationList"]
    made["Resources"]["Serving"] = {"Type": "AWS::AutoScaling::LifecycleHook", "Properties": hooks.pop(0)}


def hook_misspelt(made: Template) -> None:
    resource(made, "WebHosts")["LifecycleHookSpecificationList"][1]["LifecycleTransition"] = "autoscaling:TERMINATING"


def hook_too_long(made: Template) -> None:
    resource(made, "WebHosts")["LifecycleHookSpecificationList"][0]["HeartbeatTimeout"] = 7200


def endless_timeout(made: Template) -> None:
    group(made)["UpdatePolicy"]["AutoScalingRollingUpdate"]["PauseTime"] = "PT65M"


def quorum_lost(made: Template) -> None:
    group(made, "ConsulServers")["UpdatePolicy"]["AutoScalingRollingUpdate"]["MinInstancesInService"] = "1"


def consul_by_the_balancer(made: Template) -> None:
    resource(made, "ConsulServers")["HealthCheckType"] = "ELB"


def slow_health(made: Template) -> None:
    resource(made, "Targets")["HealthCheckTimeoutSeconds"] = 30


def health_of_the_app(made: Template) -> None:
    resource(made, "Targets")["HealthCheckPath"] = "/"


def idle_too_long(made: Template) -> None:
    resource(made, "Balancer")["LoadBalancerAttributes"][0]["Value"] = "120"


def dangling(made: Template) -> None:
    made["Outputs"]["Url"]["Value"] = {"Fn::Sub": "http://${Balanzer.DNSName}/"}


def conditional(made: Template) -> None:
    made["Outputs"]["Listener"] = {"Value": {"Ref": "HttpsListener"}}


def too_big(made: Template) -> None:
    made["Metadata"]["Essay"] = "x" * 40_000


def fixed_name(made: Template) -> None:
    resource(made, "WebRole")["RoleName"] = "web"


def untagged(made: Template) -> None:
    resource(made, "ConsulServers")["Tags"].pop()


def name_in_the_template(made: Template) -> None:
    data(made)["TagSpecifications"] = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "x"}]}]


def asks_back(made: Template) -> None:
    del made["Parameters"]["InitialImage"]["Default"]


def a_token(made: Template) -> None:
    script = data(made)["UserData"]["Fn::Base64"]["Fn::Sub"]
    script[0] = script[0].replace("ROLE=", "CONSUL_HTTP_TOKEN=1\nROLE=")


MISTAKES = [
    (ssh_for_all, the.only_the_balancer_is_open_to_the_world),
    (world_by_six, the.only_the_balancer_is_open_to_the_world),
    (no_way_in, the.only_the_balancer_is_open_to_the_world),
    (inline_rules, the.rules_are_resources_of_their_own),
    (talkative_balancer, the.the_balancer_talks_to_hosts_only),
    (web_for_consul, the.hosts_take_web_traffic_from_the_balancer_only),
    (gossip_over_tcp_only, the.gossip_has_udp_and_rpc_has_not),
    (consul_for_the_web, the.gossip_has_udp_and_rpc_has_not),
    (metadata_without_token, the.metadata_needs_a_token_and_stays_on_the_host),
    (metadata_for_containers, the.metadata_needs_a_token_and_stays_on_the_host),
    (plain_disk, the.disks_are_encrypted_gp3),
    (all_actions, the.no_right_is_wider_than_its_use),
    (all_resources, the.no_right_is_wider_than_its_use),
    (others_secrets, the.web_hosts_read_no_secret_but_theirs),
    (any_name, the.names_that_servers_write_are_confined),
    (nobody_waits, the.groups_wait_for_signals_and_a_way_out),
    (too_early, the.groups_wait_for_signals_and_a_way_out),
    (no_listener_yet, the.web_hosts_come_after_consul_and_the_listener),
    (hook_outside, the.hooks_are_in_the_group_and_end_in_time),
    (hook_misspelt, the.hooks_are_in_the_group_and_end_in_time),
    (hook_too_long, the.hooks_are_in_the_group_and_end_in_time),
    (endless_timeout, the.a_rolling_update_keeps_what_is_needed),
    (quorum_lost, the.a_rolling_update_keeps_what_is_needed),
    (consul_by_the_balancer, the.only_web_hosts_are_judged_by_the_balancer),
    (slow_health, the.health_is_asked_of_the_proxy_in_time),
    (health_of_the_app, the.health_is_asked_of_the_proxy_in_time),
    (idle_too_long, the.the_balancer_closes_idle_connections_first),
    (dangling, the.every_reference_leads_somewhere),
    (conditional, the.conditional_things_are_referred_to_under_their_condition),
    (too_big, the.it_fits_into_template_body),
    (fixed_name, the.no_name_is_fixed_that_two_stacks_would_fight_for),
    (untagged, the.machines_of_another_stack_are_told_apart),
    (name_in_the_template, the.machines_of_another_stack_are_told_apart),
    (asks_back, the.parameters_can_be_left_alone),
    (a_token, the.nothing_secret_is_in_user_data),
]


@pytest.mark.parametrize(("plant", "holds"), MISTAKES, ids=lambda each: each.__name__)
def test_a_planted_mistake_is_seen(plant: Callable[[Template], None], holds: Callable[[Template], list[str]]) -> None:
    made = template("ssh")
    plant(made)
    assert holds(made) != []


def test_each_property_has_a_planted_mistake() -> None:
    assert {holds for _, holds in MISTAKES} == set(the.PROPERTIES)

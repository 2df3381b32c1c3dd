"""The whole stack in moto: what it creates, and what the commands say of it."""

import json
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
from botocore.stub import Stubber
from typer.testing import CliRunner, Result

from infra.aws import Aws
from infra.cli import cli
from infra.cloudformation import Stack
from infra.config import load
from infra.destroy import destroy
from infra.dns_records import Zone
from infra.errors import AwsError, InfraError
from infra.template.stack import render
from tests.infra.account import REGION
from tests.infra.cases import ROOT

pytestmark = [
    pytest.mark.infra,
    pytest.mark.filterwarnings("ignore"),  # moto warns of what it leaves out: the properties cover that
    pytest.mark.usefixtures("aws"),
]


def run(*words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli, words, input=answer)


def zone_of(stack: str) -> Zone:
    found = Stack(Aws(REGION), stack).outputs()
    return Zone(boto3.client("route53", REGION), boto3.client("ec2", REGION), found["ZoneId"], "cs90", stack)


def create(name: str, template: str, **parameters: str) -> dict[str, str]:
    """Create a stack as ``aws cloudformation create-stack`` does; moto gives others no outputs."""
    boto3.client("cloudformation", REGION).create_stack(
        StackName=name,
        TemplateBody=template,
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    return Stack(Aws(REGION), name).outputs()


@pytest.fixture(scope="module")
def deployed(aws: None) -> dict[str, str]:
    create("final-project", (ROOT / "final-project.json").read_text())
    result = run("outputs", "--json")
    assert result.exit_code == 0, result.output + repr(result.exception)
    found: dict[str, str] = json.loads(result.output)
    return found


def test_the_committed_template_creates_everything(deployed: dict[str, str]) -> None:
    assert set(deployed) == {
        "ConsulGroup", "TargetGroupArn", "Url", "VpcId", "WebGroup", "ZoneId", "ZoneName",
    }  # fmt: skip
    assert deployed["Url"].startswith("http://")
    assert Stack(Aws(REGION), "final-project").describe()["StackStatus"] == "CREATE_COMPLETE"


def test_deploy_shows_what_it_does_and_creates_the_stack(aws: None) -> None:
    result = run("deploy", "--stack", "second")
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "second: 37 changes, 0 replacements" in result.output
    stack = Stack(Aws(REGION), "second")
    assert stack.describe()["StackStatus"] == "CREATE_COMPLETE"
    # A second time there is nothing to do.
    assert run("deploy", "--stack", "second").output == "second: nothing to change\n"


def test_three_hosts_of_each_tier_run_and_bear_the_stacks_tag(deployed: dict[str, str]) -> None:
    ec2 = boto3.client("ec2", REGION)
    for name in ("web", "consul-server"):
        filters = [
            {"Name": "tag:Stack", "Values": ["final-project"]},
            {"Name": "tag:Name", "Values": [name]},
            {"Name": "instance-state-name", "Values": ["running"]},
            {"Name": "vpc-id", "Values": [deployed["VpcId"]]},
        ]
        found = [
            each for group in ec2.describe_instances(Filters=filters)["Reservations"] for each in group["Instances"]
        ]
        assert len(found) == 3


def test_web_hosts_are_healthy_targets(deployed: dict[str, str]) -> None:
    health = boto3.client("elbv2", REGION).describe_target_health(TargetGroupArn=deployed["TargetGroupArn"])
    assert [each["TargetHealth"]["State"] for each in health["TargetHealthDescriptions"]] == ["healthy"] * 3


def test_every_machine_can_read_the_settings_at_boot(deployed: dict[str, str]) -> None:
    found = boto3.client("ssm", REGION).get_parameter(Name="/tidegate/final-project/shared/settings")
    settings = json.loads(found["Parameter"]["Value"])
    assert settings["zone_id"] == deployed["ZoneId"]
    assert settings["zones"].split() == ["us-east-1a", "us-east-1b", "us-east-1c"]
    assert settings["app"]["name"] == "cs90"


def test_user_data_on_a_host_has_no_placeholder_left(deployed: dict[str, str]) -> None:
    import base64

    ec2 = boto3.client("ec2", REGION)
    for template in ec2.describe_launch_templates()["LaunchTemplates"]:
        version = ec2.describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"])
        data = version["LaunchTemplateVersions"][0]["LaunchTemplateData"]["UserData"]
        script = base64.b64decode(data).decode() if not data.startswith("#!") else data
        assert "STACK=" in script
        assert "${" not in script


def test_private_hosts_and_https(aws: None) -> None:
    arn = boto3.client("acm", REGION).request_certificate(DomainName="shop.example")["CertificateArn"]
    found = create("tidegate-prod", render(load("prod")), CertificateArn=arn)
    assert len(boto3.client("ec2", REGION).describe_nat_gateways()["NatGateways"]) == 3
    assert found["Url"].startswith("https://")
    balancers = boto3.client("elbv2", REGION)
    targets = balancers.describe_target_groups(TargetGroupArns=[found["TargetGroupArn"]])["TargetGroups"][0]
    listeners = balancers.describe_listeners(LoadBalancerArn=targets["LoadBalancerArns"][0])["Listeners"]
    assert {each["Port"]: each["DefaultActions"][0]["Type"] for each in listeners} == {80: "redirect", 443: "forward"}


def test_a_protected_stack_is_not_touched() -> None:
    """moto knows no protection."""
    api = boto3.client("cloudformation", REGION)
    stack = {
        "StackName": "prod",
        "CreationTime": datetime(2026, 11, 22, tzinfo=UTC),
        "StackStatus": "CREATE_COMPLETE",
        "EnableTerminationProtection": True,
    }
    with Stubber(api) as stub:
        stub.add_response("describe_stacks", {"Stacks": [stack]})
        protected = Stack(Aws(REGION, {"cloudformation": api}), "prod")
        with pytest.raises(AwsError, match="--no-enable-termination-protection --stack-name prod"):
            list(destroy(protected, Zone(None, None, "Z1", "cs90", "prod")))


def test_plan_of_a_new_stack_says_what_it_would_create_and_leaves_nothing(aws: None) -> None:
    result = run("plan", "--stack", "idea")
    assert result.exit_code == 2
    assert "+ WebHosts (AutoScaling::AutoScalingGroup)" in result.output
    left = boto3.client("cloudformation", REGION).list_stacks(StackStatusFilter=["REVIEW_IN_PROGRESS"])
    assert "idea" not in [each["StackName"] for each in left["StackSummaries"]]


def test_plan_of_what_is_there_already_says_so(deployed: dict[str, str]) -> None:
    result = run("plan")
    assert (result.exit_code, result.output) == (0, "final-project: nothing to change\n")


def test_plan_shows_what_a_changed_environment_changes(deployed: dict[str, str], tmp_path: Path) -> None:
    changed = tmp_path / "changed.toml"
    changed.write_text('stack = "final-project"\nlog_days = 14\n[web]\ninstance_type = "t3.small"\n')
    result = run("plan", "--env", str(changed))
    assert result.exit_code == 2
    assert "~ Logs (Logs::LogGroup)" in result.output


def test_unknown_parameters_are_refused_by_name() -> None:
    result = run("deploy", "--set", "Colour=blue")
    assert "--set Colour=blue: write one of CertificateArn, ImageId, InitialImage" in str(result.exception)


def test_dns_sync_shows_first_and_then_does(deployed: dict[str, str]) -> None:
    shown = run("dns", "sync", "--dry-run")
    assert "+ consul.us-east-1a.cs90 -> " in shown.output
    done = run("dns", "sync")
    assert done.output.splitlines()[0] == shown.output.splitlines()[0]
    assert "+ consul" not in run("dns", "sync").output


def test_destroy_wants_the_name_typed(deployed: dict[str, str]) -> None:
    result = run("destroy", answer="dev\n")
    assert "nothing was deleted" in str(result.exception)
    assert Stack(Aws(REGION), "final-project").exists()


def test_destroy_empties_the_groups_and_sweeps_what_hosts_wrote(aws: None) -> None:
    found = create("doomed", render(load("dev")))
    ssm = boto3.client("ssm", REGION)
    ssm.put_parameter(Name="/tidegate/doomed/web/consul-token", Value="x", Type="SecureString")
    assert len(zone_of("doomed").sync()) == 1  # moto puts all three into one zone
    result = run("destroy", "--stack", "doomed", "--confirm", "doomed")
    filters = [
        {"Name": "instance-state-name", "Values": ["running"]},
        {"Name": "vpc-id", "Values": [found["VpcId"]]},
    ]
    assert boto3.client("ec2", REGION).describe_instances(Filters=filters)["Reservations"] == []
    names = boto3.client("route53", REGION).list_resource_record_sets(HostedZoneId=found["ZoneId"])
    assert {each["Type"] for each in names["ResourceRecordSets"]} <= {"NS", "SOA"}
    left = ssm.get_parameters_by_path(Path="/tidegate/doomed/", Recursive=True)["Parameters"]
    assert "/tidegate/doomed/web/consul-token" not in [each["Name"] for each in left]
    # moto never deletes route tables, so the VPC stays. Should this fail some day: moto has learnt it.
    assert "DependencyViolation" in result.output + str(result.exception) or "has dependencies" in str(result.exception)


@pytest.mark.parametrize("words", [("outputs",), ("destroy", "--confirm", "none"), ("dns", "sync")])
def test_a_stack_that_is_not_there_is_named_with_the_region(words: tuple[str, ...]) -> None:
    result = run(*words, "--stack", "none")
    assert isinstance(result.exception, InfraError)
    assert "there is no stack none in us-east-1" in str(result.exception)

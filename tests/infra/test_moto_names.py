"""`dns sync`, a server's boot and its leave, against moto's EC2 and Route53, and a Stubber where moto is wrong."""

from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from infra.dns_records import Change, Record, Server, StaleError, Zone, apply
from tests.infra.account import IMAGE, REGION

pytestmark = [pytest.mark.infra, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("aws")]

DOMAIN = "cs90"


class Cloud:
    """Servers in zones, and the zone of a stack of its own."""

    def __init__(self, stack: str, ec2: Any, route53: Any) -> None:
        self.stack, self.ec2, self.route53 = stack, ec2, route53
        vpc = self.ec2.create_vpc(CidrBlock="10.43.0.0/16")["Vpc"]["VpcId"]
        self.subnets = {
            zone: self.ec2.create_subnet(
                VpcId=vpc, CidrBlock=f"10.43.{number}.0/24", AvailabilityZone=f"us-east-1{zone}"
            )["Subnet"]["SubnetId"]
            for number, zone in enumerate("abd", start=1)
        }
        made = self.route53.create_hosted_zone(
            Name=DOMAIN,
            CallerReference=stack,
            HostedZoneConfig={"PrivateZone": True},
            VPC={"VPCRegion": REGION, "VPCId": vpc},
        )
        self.zone = Zone(self.route53, self.ec2, made["HostedZone"]["Id"], DOMAIN, stack)

    def launch(self, zone: str, *, stack: str = "", name: str = "consul-server") -> Server:
        tags = [{"Key": "Name", "Value": name}, {"Key": "Stack", "Value": stack or self.stack}]
        (made,) = self.ec2.run_instances(
            ImageId=IMAGE,
            MinCount=1,
            MaxCount=1,
            SubnetId=self.subnets[zone],
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )["Instances"]
        return Server(made["LaunchTime"], made["InstanceId"], f"us-east-1{zone}", made["PrivateDnsName"])

    def names(self) -> dict[str, str]:
        found = self.route53.list_resource_record_sets(HostedZoneId=self.zone.zone_id)["ResourceRecordSets"]
        return {
            each["Name"].rstrip("."): each["ResourceRecords"][0]["Value"] for each in found if each["Type"] == "CNAME"
        }


@pytest.fixture(scope="module")
def clients(aws: None) -> tuple[Any, Any]:
    return boto3.client("ec2", REGION), boto3.client("route53", REGION)


@pytest.fixture
def cloud(clients: tuple[Any, Any], request: pytest.FixtureRequest) -> Cloud:
    return Cloud(request.node.name, *clients)


def test_sync_names_each_server_once(cloud: Cloud) -> None:
    servers = {zone: cloud.launch(zone) for zone in "abd"}
    assert len(cloud.zone.sync()) == 3
    assert cloud.names() == {f"consul.us-east-1{zone}.cs90": server.host for zone, server in servers.items()}
    assert cloud.zone.sync() == ()


def test_machines_of_other_stacks_and_tiers_get_no_name(cloud: Cloud) -> None:
    cloud.launch("a", stack="other")
    cloud.launch("b", name="web")
    assert cloud.zone.sync() == ()


def test_a_replacement_takes_the_name_over(cloud: Cloud) -> None:
    old = cloud.launch("a")
    cloud.zone.sync()
    cloud.ec2.terminate_instances(InstanceIds=[old.instance])
    new = cloud.launch("a")
    cloud.zone.sync(me=new, only=new.zone)
    assert cloud.names() == {"consul.us-east-1a.cs90": new.host}


def test_of_two_in_one_zone_the_one_launched_last_is_named_and_they_do_not_flap(cloud: Cloud) -> None:
    old = cloud.launch("a")
    new = cloud.launch("a")
    newest = max(old, new)
    cloud.zone.sync(me=old, only=old.zone)
    assert cloud.zone.sync(me=new, only=new.zone) == ()
    assert cloud.names() == {"consul.us-east-1a.cs90": newest.host}


def test_a_server_that_leaves_gives_the_name_back_to_the_other(cloud: Cloud) -> None:
    both = [cloud.launch("a"), cloud.launch("a")]
    cloud.zone.sync()
    newest, other = max(both), min(both)
    cloud.zone.sync(leaving=newest.instance, only=newest.zone)
    assert cloud.names() == {"consul.us-east-1a.cs90": other.host}


def test_the_only_server_that_leaves_takes_its_name_with_it_and_no_other(cloud: Cloud) -> None:
    leaver, stayer = cloud.launch("a"), cloud.launch("b")
    cloud.zone.sync()
    cloud.zone.sync(leaving=leaver.instance, only=leaver.zone)
    assert cloud.names() == {"consul.us-east-1b.cs90": stayer.host}


def test_a_server_that_ec2_does_not_list_yet_is_named_all_the_same(cloud: Cloud) -> None:
    me = Server(datetime.now(UTC), "i-new", "us-east-1d", "ip-10-43-3-9.ec2.internal")
    cloud.zone.sync(me=me, only=me.zone)
    assert cloud.names() == {"consul.us-east-1d.cs90": me.host}


def test_records_of_other_kinds_are_left_alone(cloud: Cloud) -> None:
    other = Change("UPSERT", Record("db.cs90", "somewhere.example"))
    apply(cloud.route53, cloud.zone.zone_id, [other])
    cloud.launch("a")
    cloud.zone.sync()
    cloud.zone.sweep()
    assert cloud.names() == {"db.cs90": "somewhere.example"}


LISTED: dict[str, Any] = {"IsTruncated": False, "MaxItems": "100"}


def listing(*values: str) -> dict[str, Any]:
    """What Route53 says when the zone's name stands for *values*."""
    sets = [
        {"Name": "consul.us-east-1a.cs90.", "Type": "CNAME", "TTL": 30, "ResourceRecords": [{"Value": value}]}
        for value in values
    ]
    return {**LISTED, "ResourceRecordSets": sets}


DONE = {"ChangeInfo": {"Id": "C1", "Status": "PENDING", "SubmittedAt": datetime(2026, 11, 22, tzinfo=UTC)}}


def test_a_delete_that_aws_refuses_is_computed_anew(cloud: Cloud) -> None:
    """moto accepts such a delete; AWS compares with the value that is there."""
    me = cloud.launch("a")
    with Stubber(cloud.route53) as stub:
        stub.add_response("list_resource_record_sets", listing(me.host))
        stub.add_client_error("change_resource_record_sets", "InvalidChangeBatch", "values do not match")
        # Meanwhile another server, which has gone again, wrote its own.
        stub.add_response("list_resource_record_sets", listing())
        assert cloud.zone.sync(leaving=me.instance, only=me.zone) == ()
        stub.assert_no_pending_responses()


def test_others_who_keep_writing_end_in_one_clear_error(cloud: Cloud) -> None:
    me = cloud.launch("a")
    with Stubber(cloud.route53) as stub:
        for _ in range(4):
            stub.add_response("list_resource_record_sets", listing(me.host))
            stub.add_client_error("change_resource_record_sets", "InvalidInput", "values do not match")
        with pytest.raises(StaleError, match="values do not match"):
            cloud.zone.sync(leaving=me.instance, only=me.zone)

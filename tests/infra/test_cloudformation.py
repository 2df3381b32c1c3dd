"""What CloudFormation answers and moto never does: replacements, failures, rollbacks, deletion."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from infra.aws import Aws
from infra.cloudformation import Proposal, Stack
from infra.errors import AwsError
from tests.infra.account import REGION

pytestmark = [pytest.mark.infra, pytest.mark.usefixtures("credentials")]

ARN = "arn:aws:cloudformation:us-east-1:123456789012:stack/prod/1"
SET = "arn:aws:cloudformation:us-east-1:123456789012:changeSet/x/1"
AT = datetime(2026, 11, 22, 8, 22, tzinfo=UTC)


@dataclass
class Cloud:
    """A CloudFormation that answers what the test says, and time that passes while one sleeps."""

    api: Any
    stub: Stubber
    slept: list[float] = field(default_factory=list)

    @property
    def stack(self) -> Stack:
        return Stack(
            Aws(REGION, {"cloudformation": self.api}), "prod", sleep=self.slept.append, clock=lambda: sum(self.slept)
        )

    def is_(self, status: str, **more: Any) -> None:
        stack = {"StackName": "prod", "StackId": ARN, "CreationTime": AT, "StackStatus": status, **more}
        self.stub.add_response("describe_stacks", {"Stacks": [stack]})

    def happened(self, *events: tuple[str, str, str]) -> None:
        """Newest first, as AWS lists them."""
        listed = [
            {
                "StackId": ARN,
                "EventId": str(number),
                "StackName": "prod",
                "Timestamp": AT,
                "ResourceStatus": status,
                "LogicalResourceId": name,
                "ResourceStatusReason": reason,
            }
            for number, (status, name, reason) in enumerate(reversed(events))
        ]
        self.stub.add_response("describe_stack_events", {"StackEvents": listed})


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    api = boto3.client("cloudformation", REGION)
    with Stubber(api) as stub:
        yield Cloud(api, stub)
        stub.assert_no_pending_responses()


def change(action: str, name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "Type": "Resource",
        "ResourceChange": {"Action": action, "LogicalResourceId": name, "ResourceType": kind, **more},
    }


def test_replacements_are_marked_and_pages_are_joined(cloud: Cloud) -> None:
    cloud.stub.add_response("describe_change_set", {"Status": "CREATE_IN_PROGRESS"})
    details = [{"Target": {"Attribute": "Properties", "Name": "CidrBlock"}}]
    first = change("Modify", "Vpc", "AWS::EC2::VPC", Replacement="True", Details=details)
    second = change("Modify", "WebHosts", "AWS::AutoScaling::AutoScalingGroup", Replacement="Conditional")
    third = change("Remove", "Ssh1", "AWS::EC2::SecurityGroupIngress")
    cloud.stub.add_response(
        "describe_change_set", {"Status": "CREATE_COMPLETE", "Changes": [first], "NextToken": "more"}
    )
    cloud.stub.add_response("describe_change_set", {"Status": "CREATE_COMPLETE", "Changes": [second, third]})
    found = Proposal(cloud.stack, SET, is_new=False).differences()
    assert [str(each) for each in found] == [
        "~ Vpc (EC2::VPC): CidrBlock REPLACED",
        "~ WebHosts (AutoScaling::AutoScalingGroup) REPLACED",
        "- Ssh1 (EC2::SecurityGroupIngress)",
    ]
    assert len(cloud.slept) == 1


def test_no_changes_are_no_failure(cloud: Cloud) -> None:
    reason = "The submitted information didn't contain changes. Submit different information to create a change set."
    cloud.stub.add_response("describe_change_set", {"Status": "FAILED", "StatusReason": reason})
    assert Proposal(cloud.stack, SET, is_new=False).differences() == ()


def test_a_change_set_that_fails_says_why(cloud: Cloud) -> None:
    cloud.stub.add_response("describe_change_set", {"Status": "FAILED", "StatusReason": "Parameter ImageId is missing"})
    with pytest.raises(AwsError, match="cannot propose changes to stack prod: Parameter ImageId is missing"):
        Proposal(cloud.stack, SET, is_new=False).differences()


def test_a_change_set_that_never_ends_is_given_up(cloud: Cloud) -> None:
    for _ in range(152):
        cloud.stub.add_response("describe_change_set", {"Status": "CREATE_IN_PROGRESS"})
    with pytest.raises(AwsError, match="within 300 s"):
        Proposal(cloud.stack, SET, is_new=False).differences()


def test_withdrawing_the_first_proposal_deletes_the_empty_stack_and_no_other(cloud: Cloud) -> None:
    cloud.stub.add_response("delete_change_set", {})
    cloud.is_("REVIEW_IN_PROGRESS")
    cloud.stub.add_response("delete_stack", {}, {"StackName": "prod"})
    Proposal(cloud.stack, SET, is_new=True).withdraw()
    cloud.stub.add_response("delete_change_set", {})
    cloud.is_("CREATE_COMPLETE")  # somebody else created it meanwhile
    Proposal(cloud.stack, SET, is_new=True).withdraw()


def test_events_are_shown_once_and_in_order(cloud: Cloud) -> None:
    begun, made = ("UPDATE_IN_PROGRESS", "prod", "User Initiated"), ("UPDATE_COMPLETE", "Vpc", "")
    old, done = ("CREATE_COMPLETE", "prod", ""), ("UPDATE_COMPLETE", "prod", "")
    cloud.is_("UPDATE_IN_PROGRESS")
    cloud.happened(old, begun, made)
    cloud.is_("UPDATE_COMPLETE")
    cloud.happened(old, begun, made, done)
    shown = [str(event) for event in cloud.stack.follow(1)]
    assert [line.split()[1:3] for line in shown] == [
        ["UPDATE_IN_PROGRESS", "prod:"], ["UPDATE_COMPLETE", "Vpc"], ["UPDATE_COMPLETE", "prod"],
    ]  # fmt: skip


def test_a_rollback_is_an_error_with_its_first_reason(cloud: Cloud) -> None:
    cloud.is_("ROLLBACK_COMPLETE")
    cloud.happened(
        ("CREATE_FAILED", "WebHosts", "Received 1 FAILURE signal(s) out of 3"),
        ("ROLLBACK_IN_PROGRESS", "prod", "The following resource(s) failed to create: [WebHosts]"),
    )
    with pytest.raises(AwsError, match=r"prod is ROLLBACK_COMPLETE; first: WebHosts: Received 1 FAILURE"):
        list(cloud.stack.follow(0))


def test_a_deleted_stack_is_followed_to_its_end_by_its_arn(cloud: Cloud) -> None:
    cloud.is_("CREATE_COMPLETE")
    gone = cloud.stack.identified()
    assert gone.arn == ARN
    stack = {"StackName": "prod", "StackId": ARN, "CreationTime": AT, "StackStatus": "DELETE_COMPLETE"}
    cloud.stub.add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": ARN})
    cloud.happened(("DELETE_COMPLETE", "prod", ""))
    assert [event.status for event in gone.follow(0)] == ["DELETE_COMPLETE"]


def test_a_stack_that_cannot_be_deleted_is_an_error(cloud: Cloud) -> None:
    cloud.is_("DELETE_FAILED")
    cloud.happened(
        ("DELETE_FAILED", "PrivateZone", "The specified hosted zone contains non-required resource record sets")
    )
    with pytest.raises(AwsError, match="DELETE_FAILED; first: PrivateZone"):
        list(cloud.stack.follow(0))


def test_an_update_keeps_values_that_are_not_named(cloud: Cloud) -> None:
    kept = [{"ParameterKey": "InitialImage", "ParameterValue": "shop:1"}]
    cloud.is_("CREATE_COMPLETE")
    cloud.is_("CREATE_COMPLETE", Parameters=kept)
    cloud.stub.add_response("create_change_set", {"Id": SET, "StackId": ARN})
    sent: list[dict[str, Any]] = []
    cloud.api.meta.events.register(
        "provide-client-params.cloudformation.CreateChangeSet", lambda params, **_: sent.append(params)
    )
    proposal = cloud.stack.propose("{}", {"ImageId": "/x"}, {})
    assert proposal is not None
    assert sent[0]["ChangeSetType"] == "UPDATE"
    values = {each["ParameterKey"]: each["ParameterValue"] for each in sent[0]["Parameters"]}
    assert values == {"InitialImage": "shop:1", "ImageId": "/x"}

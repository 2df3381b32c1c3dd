"""The instance's metadata and calls, against a stand-in over HTTP; the signature against AWS's own library."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.adapters.aws.ec2 import Ec2, Membership, Place, TerminationNotice
from agent.adapters.aws.sigv4 import Credentials, Target, sign
from agent.core.model.errors import Ec2RefusedError, Ec2UnavailableError
from tests.adapters.fakes.ec2 import ACCOUNT, GROUP, HOST_NAME, INSTANCE, ZONE, FakeEc2, running

PLACE = Place(INSTANCE, ZONE, "us-east-1")


@pytest.fixture
async def fake() -> AsyncIterator[FakeEc2]:
    async with running(FakeEc2()) as serving:
        yield serving


@pytest.fixture
async def ec2(fake: FakeEc2) -> AsyncIterator[Ec2]:
    async with Ec2(fake.url, f"{fake.url}/") as adapter:
        yield adapter


async def test_metadata_is_asked_with_one_token(ec2: Ec2, fake: FakeEc2) -> None:
    assert await ec2.place() == PLACE
    assert await ec2.termination_notice() is None
    assert not await ec2.rebalance_recommended()
    assert fake.tokens_made == 1


async def test_metadata_names_the_account_and_the_host(ec2: Ec2) -> None:
    assert (await ec2.account(), await ec2.host_name()) == (ACCOUNT, HOST_NAME)


async def test_an_instance_without_a_name_has_an_empty_one(ec2: Ec2, fake: FakeEc2) -> None:
    fake.documents["meta-data/local-hostname"] = ""
    assert not await ec2.host_name()


async def test_a_token_that_has_become_invalid_is_replaced(ec2: Ec2, fake: FakeEc2) -> None:
    await ec2.place()
    fake.token = "t2"
    assert await ec2.place() == PLACE
    assert fake.tokens_made == 2


async def test_metadata_that_refuses_every_token_is_an_error(ec2: Ec2, fake: FakeEc2) -> None:
    fake.documents["dynamic/instance-identity/document"] = "<html>"
    with pytest.raises(Ec2UnavailableError, match="which instance"):
        await ec2.place()


async def test_no_metadata_service_is_an_error_soon() -> None:
    async with Ec2("http://127.0.0.1:9") as adapter:
        with pytest.raises(Ec2UnavailableError, match="does not answer"):
            await adapter.place()


async def test_the_groups_word_comes_first(ec2: Ec2, fake: FakeEc2) -> None:
    fake.target = "Terminated"
    assert await ec2.termination_notice() == TerminationNotice("its auto-scaling group terminates it")


async def test_a_spot_notice_says_when(ec2: Ec2, fake: FakeEc2) -> None:
    fake.spot = '{"action": "terminate", "time": "2026-11-22T08:22:00Z"}'
    by = datetime(2026, 11, 22, 8, 22, tzinfo=UTC)
    assert await ec2.termination_notice() == TerminationNotice(
        "spot: AWS will terminate it at 2026-11-22T08:22:00Z", by
    )


async def test_a_spot_notice_in_other_words_is_one_all_the_same(ec2: Ec2, fake: FakeEc2) -> None:
    fake.spot = "soon"
    assert await ec2.termination_notice() == TerminationNotice("spot: AWS takes it back")


async def test_a_recommendation_is_seen(ec2: Ec2, fake: FakeEc2) -> None:
    fake.rebalance = '{"noticeTime": "2026-11-22T08:22:00Z"}'
    assert await ec2.rebalance_recommended()


async def test_membership_of_a_group(ec2: Ec2, fake: FakeEc2) -> None:
    assert await ec2.membership(PLACE) == Membership(GROUP, "Pending:Wait")
    fake.in_group = False
    assert await ec2.membership(PLACE) is None


async def test_the_calls_name_what_they_mean(ec2: Ec2, fake: FakeEc2) -> None:
    await ec2.heartbeat(PLACE, GROUP, "serving")
    await ec2.complete(PLACE, GROUP, "serving", "CONTINUE")
    await ec2.signal(PLACE, "final-project", "WebHosts", success=True)
    heartbeat, complete, signal = fake.calls
    assert (heartbeat["Action"], heartbeat["LifecycleHookName"], heartbeat["InstanceId"]) == (
        "RecordLifecycleActionHeartbeat", "serving", INSTANCE,
    )  # fmt: skip
    assert (complete["LifecycleActionResult"], complete["AutoScalingGroupName"]) == ("CONTINUE", GROUP)
    assert (signal["UniqueId"], signal["Status"], signal["LogicalResourceId"]) == (INSTANCE, "SUCCESS", "WebHosts")


async def test_calls_carry_the_roles_session_and_a_signature(ec2: Ec2, fake: FakeEc2) -> None:
    await ec2.membership(PLACE)
    (headers,) = fake.headers
    assert headers["x-amz-security-token"] == "session"
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/")


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ((400, "Throttling"), Ec2UnavailableError),
        ((503, "ServiceUnavailable"), Ec2UnavailableError),
        ((403, "AccessDenied"), Ec2RefusedError),
        ((400, "ValidationError"), Ec2RefusedError),
    ],
)
async def test_refusals_say_whether_to_try_again(
    ec2: Ec2, fake: FakeEc2, refusal: tuple[int, str], kind: type[Exception]
) -> None:
    fake.refuse = refusal
    with pytest.raises(kind, match=f"CompleteLifecycleAction: {refusal[1]}: no"):
        await ec2.complete(PLACE, GROUP, "serving", "CONTINUE")


async def test_an_instance_without_a_role_says_so(ec2: Ec2, fake: FakeEc2) -> None:
    fake.documents["meta-data/iam/security-credentials/"] = ""
    with pytest.raises(Ec2RefusedError, match="no role"):
        await ec2.membership(PLACE)


@pytest.mark.parametrize("token", ["", "a/session+token=="])
@pytest.mark.parametrize("url", ["https://autoscaling.us-east-1.amazonaws.com/", "http://127.0.0.1:8000/"])
def test_the_signature_is_that_of_awss_own_library(url: str, token: str) -> None:
    from botocore import auth, awsrequest, credentials

    body = b"Action=DescribeAutoScalingInstances&InstanceIds.member.1=i-0abc&Version=2011-01-01"
    mine = sign(Target(url, "autoscaling", "us-east-1"), body, Credentials("AKID", "secret", token), datetime.now(UTC))
    request = awsrequest.AWSRequest("POST", url, headers={"Content-Type": mine["content-type"]}, data=body)
    request.context["timestamp"] = mine["x-amz-date"]
    signer: Any = auth.SigV4Auth(credentials.Credentials("AKID", "secret", token or None), "autoscaling", "us-east-1")
    request.headers["X-Amz-Date"] = mine["x-amz-date"]
    if token:
        request.headers["X-Amz-Security-Token"] = token
    theirs = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert mine["authorization"].endswith(f"Signature={theirs}")


def test_secrets_do_not_show() -> None:
    assert "hush" not in repr(Credentials("AKID", "hush", "hush"))

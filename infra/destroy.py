"""Take a stack down so that nothing is left behind that would hinder it."""

from collections.abc import Iterator

from infra.aws import translate_aws_errors
from infra.cloudformation import Stack
from infra.dns_records import Zone
from infra.errors import AwsError

EMPTY_DEADLINE_S = 1200.0
"""Above the time the leave hooks have."""
POLL_S = 5.0


def destroy(stack: Stack, zone: Zone) -> Iterator[str]:
    """
    Let all hosts leave, sweep what they wrote, and begin to delete the stack; yield a line for each step.

    A zone that still holds names cannot be deleted, and servers that still run would write them again.

    Raises:
        AwsError: the stack is protected, hosts do not go, or AWS refuses or does not answer.
    """
    if stack.describe().get("EnableTerminationProtection"):
        raise AwsError(
            f"stack {stack.name} is protected: aws cloudformation update-termination-protection "
            f"--no-enable-termination-protection --stack-name {stack.name}"
        )
    found = stack.outputs()
    groups = [found[key] for key in ("WebGroup", "ConsulGroup") if key in found]
    scaling = stack.aws.client("autoscaling")
    for group in groups:
        with translate_aws_errors(f"empty {group}"):
            scaling.update_auto_scaling_group(AutoScalingGroupName=group, MinSize=0, MaxSize=0, DesiredCapacity=0)
        yield f"{group}: its hosts leave"
    yield from _until_empty(stack, groups)
    for change in zone.sweep():
        yield str(change)
    yield from _sweep_parameters(stack)
    stack.delete()


def _until_empty(stack: Stack, groups: list[str]) -> Iterator[str]:
    scaling, deadline, before = stack.aws.client("autoscaling"), stack.clock() + EMPTY_DEADLINE_S, -1
    while True:
        with translate_aws_errors("look at the hosts"):
            answer = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=groups)
        left = [each["InstanceId"] for group in answer["AutoScalingGroups"] for each in group["Instances"]]
        if not left:
            return
        if len(left) != before:
            yield f"{len(left)} hosts are still there"
            before = len(left)
        if stack.clock() > deadline:
            raise AwsError(f"hosts do not leave within {EMPTY_DEADLINE_S / 60:.0f} minutes: {', '.join(left)}")
        stack.sleep(POLL_S)


def _sweep_parameters(stack: Stack) -> Iterator[str]:
    """Delete the secrets that the Consul servers made; the settings go with the stack."""
    api, root = stack.aws.client("ssm"), f"/tidegate/{stack.name}/"
    with translate_aws_errors("list the stack's secrets"):
        pages = list(api.get_paginator("get_parameters_by_path").paginate(Path=root, Recursive=True))
    names = [each["Name"] for page in pages for each in page["Parameters"]]
    names = [name for name in names if not name.endswith("/shared/settings")]
    for start in range(0, len(names), 10):
        with translate_aws_errors("delete the stack's secrets"):
            api.delete_parameters(Names=names[start : start + 10])
    if names:
        yield f"{len(names)} secrets deleted"

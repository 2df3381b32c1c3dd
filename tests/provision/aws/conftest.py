"""The account that moto plays, and the secrets of a stack in it."""

from typing import Any

import pytest

from agent.provision.aws.parameter_store import ParameterStore
from tests.infra.account import REGION, aws, credentials
from tests.provision.aws.machines import Clock

__all__ = ["aws", "credentials", "parameter_store", "ssm"]


@pytest.fixture(scope="module")
def ssm(aws: None) -> Any:
    import boto3

    return boto3.client("ssm", REGION)


@pytest.fixture
def parameter_store(ssm: Any, request: pytest.FixtureRequest) -> ParameterStore:
    clock = Clock()
    stack = request.node.name.replace("[", "-").replace("]", "")
    return ParameterStore(ssm, stack, sleep=clock.sleep, clock=clock)

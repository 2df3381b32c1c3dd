"""The account that moto plays, and the secrets of a stack in it."""

from typing import Any

import pytest

from agent.provision.aws.parameter_store import Vault
from tests.infra.account import REGION, aws, credentials
from tests.provision.aws.machines import Clock

__all__ = ["aws", "credentials", "ssm", "vault"]


@pytest.fixture(scope="module")
def ssm(aws: None) -> Any:
    import boto3

    return boto3.client("ssm", REGION)


@pytest.fixture
def vault(ssm: Any, request: pytest.FixtureRequest) -> Vault:
    clock = Clock()
    stack = request.node.name.replace("[", "-").replace("]", "")
    return Vault(ssm, stack, sleep=clock.sleep, clock=clock)

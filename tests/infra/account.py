"""AWS, played by moto in this process: one account for a module, as making one is slow."""

from collections.abc import Iterator

import pytest

REGION = "us-east-1"
IMAGE = "ami-12c6146b"
"""One that moto knows."""


@pytest.fixture(scope="module")
def credentials() -> Iterator[None]:
    """Dummies: nothing may ever reach a real account."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        yield


@pytest.fixture(scope="module")
def aws(credentials: None) -> Iterator[None]:
    """An account with the image's parameter."""
    import boto3
    from moto import mock_aws

    with mock_aws():
        boto3.client("ssm", REGION).put_parameter(
            Name="/tidegate/ami/current", Value=IMAGE, Type="String", DataType="text"
        )
        yield

"""Each way in which AWS can fail gives one clear line."""

from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from infra.aws import translate_aws_errors
from infra.cli import main
from infra.errors import AwsError, AwsMissingError

LIBRARY: list[tuple[BotoCoreError, str]] = [
    (NoCredentialsError(), "no AWS credentials"),
    (PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), "half of the AWS credentials"),
    (NoRegionError(), "give --region"),
    (EndpointConnectionError(endpoint_url="https://x.eu-north-9.amazonaws.com/"), "is the region right"),
]
CODES: list[tuple[str, str, type[AwsError], str]] = [
    ("Throttling", "Rate exceeded", AwsError, "throttles or stumbles"),
    ("RequestLimitExceeded", "", AwsError, "throttles or stumbles"),
    ("AccessDenied", "User x is not authorized", AwsError, "not allowed DescribeStacks: User x is not"),
    ("UnauthorizedOperation", "no", AwsError, "not allowed"),
    ("ExpiredToken", "", AwsError, "have expired"),
    ("InvalidClientTokenId", "", AwsError, "does not know these credentials"),
    ("ValidationError", "Stack with id x does not exist", AwsMissingError, "does not exist"),
    ("ValidationError", "Template\n format error", AwsError, "Template format error"),
]


@pytest.mark.parametrize(("raised", "words"), LIBRARY, ids=lambda each: type(each).__name__)
def test_what_the_library_raises_is_one_line(raised: BotoCoreError, words: str) -> None:
    with pytest.raises(AwsError, match=words) as caught, translate_aws_errors("look at stack prod"):
        raise raised
    assert str(caught.value).startswith("cannot look at stack prod: ")
    assert "\n" not in str(caught.value)


def test_an_answer_that_is_not_awss_is_one_line() -> None:
    with (
        pytest.raises(AwsError, match="is there a proxy in between") as caught,
        translate_aws_errors("look at stack prod"),
    ):
        raise ResponseParserError("<!doctype html>\n<title>502</title>")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("code", "message", "kind", "words"), CODES, ids=str)
def test_what_aws_answers_is_one_line(code: str, message: str, kind: type[AwsError], words: str) -> None:
    answer: Any = {"Error": {"Code": code, "Message": message}}
    with pytest.raises(kind, match=words) as caught, translate_aws_errors("look at stack prod"):
        raise ClientError(answer, "DescribeStacks")
    assert "\n" not in str(caught.value)


def test_the_command_ends_with_that_line_and_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tidegate-infra", "render", "--env", "staging"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert (
        capsys.readouterr().err == "tidegate-infra: no environment 'staging'; there are: dev, prod (or give a path)\n"
    )


def test_without_credentials_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setattr("sys.argv", ["tidegate-infra", "outputs", "--region", "us-east-1"])
    with pytest.raises(SystemExit):
        main()
    assert "cannot look at stack final-project: no AWS credentials" in capsys.readouterr().err

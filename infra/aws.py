"""How AWS is called: clients that retry as botocore does, and one clear line for each way a call can fail."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from infra.errors import AwsError, AwsMissingError, AwsTakenError

ATTEMPTS = 6
"""Of each call that is throttled, fails on AWS's side or is not answered; botocore waits longer each time."""
_BUSY = frozenset(
    {
        "InternalFailure",
        "InternalError",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_STALE = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_UNKNOWN_KEY = frozenset(
    {"InvalidClientTokenId", "UnrecognizedClientException", "AuthFailure", "SignatureDoesNotMatch"}
)


@dataclass(frozen=True, slots=True)
class Aws:
    """An account and region; clients are made once each."""

    region: str | None = None
    _made: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        """
        Return boto3's client of *service*.

        Raises:
            AwsError: no region is set.
        """
        if service not in self._made:
            # Heavy, and needed by commands that reach AWS only.
            import boto3  # noqa: PLC0415
            from botocore.config import Config  # noqa: PLC0415

            options = Config(
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS}, connect_timeout=5, read_timeout=30
            )
            with translate_aws_errors(f"use {service}"):
                # boto3 itself reads AWS_DEFAULT_REGION only; every other tool reads AWS_REGION first.
                region = self.region or os.environ.get("AWS_REGION")
                self._made[service] = boto3.session.Session(region_name=region).client(service, config=options)
        return self._made[service]

    @property
    def place(self) -> str:
        """Return the region's name, to be shown."""
        return str(self.client("cloudformation").meta.region_name)


@contextmanager
def translate_aws_errors(what: str) -> Iterator[None]:
    """
    Turn what botocore raises into one line that begins with "cannot *what*".

    Raises:
        AwsMissingError: it does not exist.
        AwsError: anything else.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    try:
        yield
    except ClientError as exc:
        raise _of_code(what, exc.response.get("Error", {}), exc.operation_name) from exc
    except ResponseParserError as exc:
        # A page of some proxy, or of a server that is breaking down.
        raise AwsError(f"cannot {what}: the answer is none of AWS's; is there a proxy in between?") from exc
    except BotoCoreError as exc:
        raise AwsError(f"cannot {what}: {_of_library(exc)}") from exc


def _of_code(what: str, error: dict[str, Any], operation: str) -> AwsError:
    code, message = str(error.get("Code", "?")), " ".join(str(error.get("Message", "")).split())
    if code in _BUSY or code.startswith("5"):
        return AwsError(f"cannot {what}: AWS throttles or stumbles ({code}); try again in a minute")
    if code in _DENIED:
        return AwsError(f"cannot {what}: these credentials are not allowed {operation}: {message}")
    if code in _STALE:
        return AwsError(f"cannot {what}: the credentials have expired; sign in again")
    if code in _UNKNOWN_KEY:
        return AwsError(f"cannot {what}: AWS does not know these credentials ({code})")
    if "does not exist" in message or "NotFound" in code or code.startswith("NoSuch"):
        return AwsMissingError(f"cannot {what}: {message or code}")
    if code == "ParameterAlreadyExists":
        return AwsTakenError(f"cannot {what}: it is there already")
    return AwsError(f"cannot {what}: {message or code}")


def _of_library(exc: Exception) -> str:
    match type(exc).__name__:
        case "NoCredentialsError" | "CredentialRetrievalError":
            return "no AWS credentials (aws configure, aws sso login, or AWS_PROFILE)"
        case "PartialCredentialsError":
            return "half of the AWS credentials is missing: set both key id and secret"
        case "NoRegionError":
            return "no region: give --region or set AWS_REGION"
        case "ProfileNotFound":
            return f"{exc}"
        case "EndpointConnectionError" | "ConnectTimeoutError" | "ConnectionClosedError" | "ReadTimeoutError":
            return f"AWS does not answer; is the region right, and the network there? ({exc})"
        case _:
            return " ".join(str(exc).split())

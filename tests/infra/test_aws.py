"""A call that AWS throttles or fails is made again by botocore itself, six times in all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from agent.provision.aws.parameter_store import ParameterStore
from infra.aws import ATTEMPTS, Aws
from infra.dns_records import Change, Record, apply
from infra.errors import AwsError
from tests.infra.account import REGION

pytestmark = pytest.mark.usefixtures("credentials")

FOUND = json.dumps({"Parameter": {"Name": "/tidegate/shop/key", "Value": "secret"}})
WRITTEN = """<ChangeResourceRecordSetsResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ChangeInfo>
<Id>/change/C1</Id><Status>PENDING</Status><SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt>
</ChangeInfo></ChangeResourceRecordSetsResponse>"""
WAIT = """<ErrorResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Error><Type>Sender</Type>
<Code>PriorRequestNotComplete</Code><Message>wait</Message></Error></ErrorResponse>"""


def refusal(code: str) -> str:
    return json.dumps({"__type": code, "message": "slow down"})


@contextmanager
def answering(*answers: tuple[int, str]) -> Iterator[tuple[str, list[str]]]:
    """Serve *answers* in turn, the last one for ever; yield the URL and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, text = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What botocore would have waited: it takes no clock, so its own `time` is replaced."""
    found: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=found.append))
    return found


def client(url: str, service: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    return Aws(REGION).client(service)


@pytest.mark.parametrize(
    "trouble",
    [(400, refusal("ThrottlingException")), (400, refusal("TooManyRequestsException")), (503, "")],
    ids=["throttled", "too many requests", "unavailable"],
)
def test_a_call_that_aws_puts_off_is_made_again(
    trouble: tuple[int, str], delays: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(*[trouble] * 3, (200, FOUND)) as (url, asked):
        assert ParameterStore(client(url, "ssm", monkeypatch), "shop").get("key") == "secret"
    assert (len(asked), len(delays)) == (4, 3)
    assert all(delay <= 2**number for number, delay in enumerate(delays))


def test_a_batch_of_names_waits_for_the_one_before(delays: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    with answering((400, WAIT), (200, WRITTEN)) as (url, asked):
        apply(client(url, "route53", monkeypatch), "Z1", [Change("UPSERT", Record("consul.us-east-1a.cs90", "x"))])
    assert (len(asked), len(delays)) == (2, 1)


def test_throttling_without_end_is_given_up_in_one_line(delays: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    with answering((400, refusal("ThrottlingException"))) as (url, asked):
        parameter_store = ParameterStore(client(url, "ssm", monkeypatch), "shop")
        with pytest.raises(AwsError, match=r"cannot read the parameter key: AWS throttles or stumbles"):
            parameter_store.get("key")
    assert (len(asked), len(delays)) == (ATTEMPTS, ATTEMPTS - 1)


def test_a_refusal_is_not_asked_again(delays: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    with answering((400, refusal("AccessDeniedException"))) as (url, asked):
        parameter_store = ParameterStore(client(url, "ssm", monkeypatch), "shop")
        with pytest.raises(AwsError, match="not allowed GetParameter"):
            parameter_store.get("key")
    assert (len(asked), delays) == (1, [])

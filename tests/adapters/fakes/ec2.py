"""A stand-in for an instance's metadata service and for the AWS calls that its agent makes, over real HTTP."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from aiohttp import web
from multidict import CIMultiDictProxy

from cluster.servers.ports import free_port

ROLE, GROUP, INSTANCE, ZONE = "final-project-WebRole-1", "final-project-WebHosts-2", "i-0abc", "us-east-1d"
ACCOUNT, HOST_NAME = "123456789012", "ip-10-43-1-9.ec2.internal"
CREDENTIALS = {
    "Code": "Success",
    "AccessKeyId": "ASIAEXAMPLE",
    "SecretAccessKey": "secret",
    "Token": "session",
    "Expiration": "2099-01-01T00:00:00Z",
}
TOKEN, TTL = "X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds"
_ACTIVE = {"Pending:Wait": "serving", "Terminating:Wait": "leave"}


@dataclass
class FakeEc2:
    """What AWS knows; tests change it."""

    state: str = "Pending:Wait"
    in_group: bool = True
    target: str = "InService"
    spot: str = ""
    rebalance: str = ""
    waits_for_signals: bool = True
    documents: dict[str, str] = field(default_factory=dict)
    token: str = "t1"
    tokens_made: int = 0
    calls: list[dict[str, str]] = field(default_factory=list)
    headers: list[CIMultiDictProxy[str]] = field(default_factory=list)
    refuse: tuple[int, str] | None = None
    """Status and code of every call from now on."""
    host: str = "127.0.0.1"
    """Where it listens; on a bridge's own address, machines in containers reach it."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def done(self, action: str) -> list[dict[str, str]]:
        """Return the calls of one action."""
        return [call for call in self.calls if call["Action"] == action]

    async def make_token(self, request: web.Request) -> web.Response:
        if not request.headers.get(TTL):
            return web.Response(status=400)
        self.tokens_made += 1
        return web.Response(text=self.token)

    async def metadata(self, request: web.Request) -> web.Response:
        if request.headers.get(TOKEN) != self.token:
            return web.Response(status=401)
        identity = {"instanceId": INSTANCE, "availabilityZone": ZONE, "region": "us-east-1", "accountId": ACCOUNT}
        documents = {
            "dynamic/instance-identity/document": json.dumps(identity),
            "meta-data/local-hostname": HOST_NAME,
            "meta-data/autoscaling/target-lifecycle-state": self.target,
            "meta-data/spot/instance-action": self.spot,
            "meta-data/events/recommendations/rebalance": self.rebalance,
            "meta-data/iam/security-credentials/": ROLE,
            f"meta-data/iam/security-credentials/{ROLE}": json.dumps(CREDENTIALS),
            **self.documents,
        }
        found = documents.get(request.match_info["path"], "")
        return web.Response(text=found) if found else web.Response(status=404)

    async def call(self, request: web.Request) -> web.Response:
        fields = dict(parse_qsl(await request.text()))
        self.calls.append(fields)
        self.headers.append(request.headers)
        if self.refuse is not None:
            status, code = self.refuse
            return error(status, code, "no")
        match fields["Action"]:
            case "DescribeAutoScalingInstances":
                member = (
                    f"<member><AutoScalingGroupName>{GROUP}</AutoScalingGroupName>"
                    f"<LifecycleState>{self.state}</LifecycleState></member>"
                )
                return web.Response(
                    text=f"<R><AutoScalingInstances>{member if self.in_group else ''}</AutoScalingInstances></R>"
                )
            case "CompleteLifecycleAction" | "RecordLifecycleActionHeartbeat" as action:
                if _ACTIVE.get(self.state) != fields["LifecycleHookName"]:
                    return error(400, "ValidationError", "No active Lifecycle Action found")
                if action == "CompleteLifecycleAction":
                    self.state = "InService" if self.state.startswith("Pending") else "Terminating:Proceed"
                return web.Response(text="<R/>")
            case "SignalResource":
                if not self.waits_for_signals:
                    return error(400, "ValidationError", "Stack is in UPDATE_COMPLETE state and can not be signaled")
                return web.Response(text="<R/>")
            case action:
                raise AssertionError(action)


def error(status: int, code: str, message: str) -> web.Response:
    text = f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    return web.Response(status=status, text=text)


@asynccontextmanager
async def running(fake: FakeEc2) -> AsyncIterator[FakeEc2]:
    """Serve it."""
    app = web.Application()
    app.add_routes(
        [
            web.put("/latest/api/token", fake.make_token),
            web.get("/latest/{path:.*}", fake.metadata),
            web.post("/", fake.call),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    fake.port = free_port()
    try:
        await web.TCPSite(runner, fake.host, fake.port).start()
        yield fake
    finally:
        await runner.cleanup()

"""
The EC2 instance this process runs on: its metadata (IMDSv2), and the few calls to its group and stack.

Its agent asks all its life, its boot (:mod:`agent.provision.aws`) once.

Metadata is asked with a session token, over plain HTTP on a link-local address; a token that has become invalid is
replaced once. Calls are signed with the role's credentials, fetched for each.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import aiohttp

from agent.adapters.aws.sigv4 import Credentials, Target, sign
from agent.core.model.errors import Ec2RefusedError, Ec2UnavailableError

METADATA_TIMEOUT_S = 2.0
CALL_TIMEOUT_S = 10.0
_TOKEN_TTL_S = 21600
_IDENTITY = ("instanceId", "availabilityZone", "region", "accountId")
_VERSIONS = {"autoscaling": "2011-01-01", "cloudformation": "2010-05-15"}


@dataclass(frozen=True, slots=True)
class Place:
    """Which instance this is."""

    instance: str
    zone: str
    region: str


@dataclass(frozen=True, slots=True)
class TerminationNotice:
    """That the instance will end."""

    reason: str
    by: datetime | None = None
    """When AWS takes it away, if it said so."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The instance in its auto-scaling group."""

    group: str
    state: str
    """``Pending:Wait``, ``InService``, ``Terminating:Wait`` and so on."""


class Ec2:
    """
    One instance's surroundings.

    Args:
        metadata: URL of the metadata service.
        endpoint: URL that all calls go to instead of AWS's own; for tests.
    """

    def __init__(self, metadata: str, endpoint: str | None = None) -> None:
        self._metadata = metadata.rstrip("/")
        self._endpoint = endpoint
        self._token = ""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S))
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def place(self) -> Place:
        """
        Return which instance this is.

        Raises:
            Ec2UnavailableError: the metadata service does not answer.
        """
        document = await self._identity()
        return Place(document["instanceId"], document["availabilityZone"], document["region"])

    async def account(self) -> str:
        """
        Return the id of the account that owns the instance.

        Raises:
            Ec2UnavailableError: the metadata service does not answer.
        """
        return (await self._identity())["accountId"]

    async def host_name(self) -> str:
        """
        Return the instance's private DNS name; empty: it has none.

        Raises:
            Ec2UnavailableError: the metadata service does not answer.
        """
        return await self._get("meta-data/local-hostname") or ""

    async def termination_notice(self) -> TerminationNotice | None:
        """
        Return whether the instance is to end: its group's word first, then a spot notice.

        Raises:
            Ec2UnavailableError: the metadata service does not answer.
        """
        if await self._get("meta-data/autoscaling/target-lifecycle-state") == "Terminated":
            return TerminationNotice("its auto-scaling group terminates it")
        spot = await self._get("meta-data/spot/instance-action")
        if spot is None:
            return None
        try:
            found = json.loads(spot)
            by = datetime.strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            return TerminationNotice(f"spot: AWS will {found['action']} it at {found['time']}", by)
        except (ValueError, KeyError, TypeError):
            return TerminationNotice("spot: AWS takes it back")

    async def rebalance_recommended(self) -> bool:
        """
        Return whether AWS recommends to rebalance: an interruption is likely, and not decided.

        Raises:
            Ec2UnavailableError: the metadata service does not answer.
        """
        return await self._get("meta-data/events/recommendations/rebalance") is not None

    async def membership(self, place: Place) -> Membership | None:
        """
        Return the instance's place in its group; None: it is in none.

        Raises:
            Ec2UnavailableError: AWS does not answer, or throttles.
            Ec2RefusedError: AWS refuses.
        """
        answer = await self._call(
            place, "autoscaling", {"Action": "DescribeAutoScalingInstances", "InstanceIds.member.1": place.instance}
        )
        group, state = _tag(answer, "AutoScalingGroupName"), _tag(answer, "LifecycleState")
        return Membership(group, state) if group and state else None

    async def complete(self, place: Place, group: str, hook: str, result: str) -> None:
        """
        End a hook.

        Raises:
            Ec2UnavailableError: AWS does not answer, or throttles.
            Ec2RefusedError: AWS refuses, among others as the hook has ended already.
        """
        await self._call(
            place,
            "autoscaling",
            {
                "Action": "CompleteLifecycleAction",
                "AutoScalingGroupName": group,
                "InstanceId": place.instance,
                "LifecycleActionResult": result,
                "LifecycleHookName": hook,
            },
        )

    async def heartbeat(self, place: Place, group: str, hook: str) -> None:
        """
        Ask a hook for more time; errors as of `complete`.

        Raises:
            Ec2UnavailableError: AWS does not answer, or throttles.
            Ec2RefusedError: AWS refuses.
        """
        await self._call(
            place,
            "autoscaling",
            {
                "Action": "RecordLifecycleActionHeartbeat",
                "AutoScalingGroupName": group,
                "InstanceId": place.instance,
                "LifecycleHookName": hook,
            },
        )

    async def signal(self, place: Place, stack: str, resource: str, *, success: bool) -> None:
        """
        Tell CloudFormation how the launch ended; it counts while the stack waits for it.

        Raises:
            Ec2UnavailableError: AWS does not answer, or throttles.
            Ec2RefusedError: AWS refuses, among others as the stack waits for nothing.
        """
        await self._call(
            place,
            "cloudformation",
            {
                "Action": "SignalResource",
                "LogicalResourceId": resource,
                "StackName": stack,
                "Status": "SUCCESS" if success else "FAILURE",
                "UniqueId": place.instance,
            },
        )

    async def _identity(self) -> Mapping[str, str]:
        """Return the instance's identity document, with the fields that are read of it."""
        found = await self._get("dynamic/instance-identity/document") or ""
        try:
            document = json.loads(found)
            return {name: str(document[name]) for name in _IDENTITY}
        except (ValueError, KeyError, TypeError) as exc:
            raise Ec2UnavailableError("the metadata service does not say which instance this is") from exc

    async def _credentials(self) -> Credentials:
        role = await self._get("meta-data/iam/security-credentials/")
        if not role:
            raise Ec2RefusedError("the instance has no role")
        found = await self._get(f"meta-data/iam/security-credentials/{role.splitlines()[0]}")
        try:
            document = json.loads(found or "")
            return Credentials(document["AccessKeyId"], document["SecretAccessKey"], document["Token"])
        except (ValueError, KeyError, TypeError) as exc:
            raise Ec2UnavailableError("the metadata service has no credentials of the role") from exc

    async def _call(self, place: Place, service: str, fields: Mapping[str, str]) -> str:
        assert self._session is not None
        suffix = "amazonaws.com.cn" if place.region.startswith("cn-") else "amazonaws.com"
        target = Target(self._endpoint or f"https://{service}.{place.region}.{suffix}/", service, place.region)
        body = urlencode({**fields, "Version": _VERSIONS[service]}).encode()
        headers = sign(target, body, await self._credentials(), datetime.now(UTC))
        action = fields["Action"]
        try:
            async with self._session.post(target.url, data=body, headers=headers) as reply:
                text = await reply.text()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise Ec2UnavailableError(f"{action}: AWS does not answer: {_text(exc)}") from exc
        if reply.status == 200:
            return text
        code, message = _tag(text, "Code") or str(reply.status), _tag(text, "Message")
        if reply.status >= 500 or code.startswith(("Throttl", "RequestLimit")):
            raise Ec2UnavailableError(f"{action}: {code}: {message}")
        raise Ec2RefusedError(f"{action}: {code}: {message}")

    async def _get(self, path: str) -> str | None:
        """Return the document at *path*; None: there is none (404)."""
        try:
            async with asyncio.timeout(METADATA_TIMEOUT_S):
                status, text = await self._ask(path)
                if status == 401:
                    self._token = ""
                    status, text = await self._ask(path)
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise Ec2UnavailableError(f"the metadata service does not answer: {_text(exc)}") from exc
        if status == 404:
            return None
        if status != 200:
            raise Ec2UnavailableError(f"the metadata service answers {status} for {path}")
        return text.strip()

    async def _ask(self, path: str) -> tuple[int, str]:
        assert self._session is not None
        if not self._token:
            self._token = await self._new_token()
        headers = {"X-aws-ec2-metadata-token": self._token}
        async with self._session.get(f"{self._metadata}/latest/{path}", headers=headers) as reply:
            return reply.status, await reply.text()

    async def _new_token(self) -> str:
        assert self._session is not None
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
        async with self._session.put(f"{self._metadata}/latest/api/token", headers=headers) as reply:
            reply.raise_for_status()
            return await reply.text()


def _text(exc: Exception) -> str:
    return str(exc) or "no answer in time"


def _tag(xml: str, name: str) -> str:
    """Return the text of the first element called *name*; AWS's answers here have one of each."""
    found = re.search(rf"<{name}>([^<]*)</{name}>", xml)
    return found[1] if found else ""

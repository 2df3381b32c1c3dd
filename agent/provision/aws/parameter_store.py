"""
The stack's secrets: SSM parameters under ``/tidegate/<stack>/``, encrypted, written once by whoever comes first.

====================  =========================  ===================================================
folder                read by                    holds
====================  =========================  ===================================================
``shared/``           every machine              settings (no secret), gossip key, authority
``web/``              web hosts                  tokens of their Consul agent and of their agent
``consul/``           Consul servers             the management token, certificate and key, their tokens
``people/``           who deploys, by hand       tokens of operators and of those who only look
====================  =========================  ===================================================

A Consul server may read all of it: whoever is root there has Consul's whole memory, tokens included.
"""

import base64
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infra.aws import translate_aws_errors
from infra.errors import AwsError, AwsMissingError, AwsTakenError

SETTINGS = "shared/settings"
GOSSIP_KEY, AUTHORITY = "shared/gossip-key", "shared/authority"
WEB_AGENT_TOKEN, NODE_TOKEN = "web/agent-token", "web/node-token"
MANAGEMENT, SERVER_AGENT_TOKEN, COORDINATOR_TOKEN = (
    "consul/management-token",
    "consul/agent-token",
    "consul/coordinator-token",
)
CERTIFICATE = "consul/certificate"
OPERATOR_TOKEN, READ_ONLY_TOKEN = "people/operator-token", "people/read-only-token"
POLL_S = 5.0
LIMIT_BYTES = 4096
"""Of a standard parameter."""


def new_token() -> str:
    """Choose an ACL token."""
    return str(uuid.uuid4())


def new_gossip_key() -> str:
    """Choose a gossip key, as ``consul keygen`` does."""
    return base64.b64encode(os.urandom(32)).decode()


@dataclass(frozen=True, slots=True)
class ParameterStore:
    """Parameters of one stack."""

    ssm: Any
    stack: str
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def get(self, name: str) -> str | None:
        """
        Return a value; None: nobody has written it yet.

        Raises:
            AwsError: SSM refuses or does not answer.
        """
        try:
            with translate_aws_errors(f"read the parameter {name}"):
                found = self.ssm.get_parameter(Name=self.path(name), WithDecryption=True)
        except AwsMissingError:
            return None
        return str(found["Parameter"]["Value"])

    def wait(self, name: str, *, deadline_s: float) -> str:
        """
        Return a value as soon as it is there.

        Raises:
            AwsError: it is not there in time, or SSM refuses or does not answer.
        """
        until = self.clock() + deadline_s
        while (found := self.get(name)) is None:
            if self.clock() >= until:
                raise AwsError(f"parameter {self.path(name)} was not written within {deadline_s:.0f} s")
            self.sleep(POLL_S)
        return found

    def claim(self, name: str, make: Callable[[], str]) -> str:
        """
        Return the value, made now unless it is there already. Of several that make one, the first wins for all.

        Raises:
            AwsError: SSM refuses or does not answer.
        """
        found = self.get(name)
        if found is not None:
            return found
        return self._write_first(name, make())

    def replace(self, name: str, value: str) -> None:
        """
        Write a value over another.

        Raises:
            AwsError: SSM refuses or does not answer.
        """
        self._put(name, value, overwrite=True)

    def settings(self) -> dict[str, Any]:
        """
        Return what the template says to all machines.

        Raises:
            AwsError: it is not there, or SSM refuses or does not answer.
        """
        found: dict[str, Any] = json.loads(self.wait(SETTINGS, deadline_s=60))
        return found

    def _write_first(self, name: str, value: str) -> str:
        try:
            self._put(name, value, overwrite=False)
        except AwsTakenError:
            return self.wait(name, deadline_s=30)
        return value

    def _put(self, name: str, value: str, *, overwrite: bool) -> None:
        if len(value.encode()) > LIMIT_BYTES:
            raise AwsError(f"parameter {self.path(name)} would be longer than {LIMIT_BYTES} bytes")
        with translate_aws_errors(f"write the parameter {name}"):
            self.ssm.put_parameter(Name=self.path(name), Value=value, Type="SecureString", Overwrite=overwrite)

    def path(self, name: str) -> str:
        """Return the whole name of a parameter."""
        return f"/tidegate/{self.stack}/{name}"

"""The metadata service, asked with a token; without any library, as every boot does."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from agent.provision.aws.files import Machine
from infra.errors import InfraError

ADDRESS = "http://169.254.169.254"
_TIMEOUT_S = 5.0
_TTL_S = 21600


@dataclass(slots=True)
class Imds:
    """One instance's metadata."""

    address: str = ADDRESS
    _token: str = ""

    def get(self, path: str) -> str | None:
        """
        Return a document; None: there is none.

        Raises:
            InfraError: the service does not answer.
        """
        for attempt in range(2):
            if not self._token:
                header = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TTL_S)}
                self._token = self._ask("PUT", "api/token", header)
            try:
                return self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as exc:
                if exc.code == 404:
                    return None
                if exc.code != 401 or attempt:
                    raise InfraError(f"the metadata service answers {exc.code} for {path}") from exc
                self._token = ""
        raise AssertionError("unreachable")

    def is_to_end(self) -> bool:
        """
        Return whether the instance is to be terminated.

        Raises:
            InfraError: the service does not answer.
        """
        return (
            self.get("meta-data/autoscaling/target-lifecycle-state") == "Terminated"
            or self.get("meta-data/spot/instance-action") is not None
        )

    def wait_for_the_end(self, *, every_s: float = 5.0, sleep: Callable[[float], None] = time.sleep) -> None:
        """Return when the instance is to be terminated; a service that does not answer says nothing."""
        while True:
            try:
                if self.is_to_end():
                    return
            except InfraError:
                pass
            sleep(every_s)

    def machine(self, stack_env: str) -> Machine:
        """
        Return which machine this is.

        Args:
            stack_env: what user-data wrote: a line ``NAME=value`` for each.

        Raises:
            InfraError: the service does not answer, or a line is missing.
        """
        told = dict(line.split("=", 1) for line in stack_env.splitlines() if "=" in line)
        document = json.loads(self.get("dynamic/instance-identity/document") or "{}")
        try:
            return Machine(
                stack=told["STACK"],
                region=told["REGION"],
                role=told["ROLE"],
                group=told["GROUP"],
                instance=document["instanceId"],
                zone=document["availabilityZone"],
                host=self.get("meta-data/local-hostname") or "",
                account=document["accountId"],
            )
        except KeyError as exc:
            raise InfraError(f"stack.env and metadata do not say {exc.args[0]}") from exc

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(f"{self.address}/latest/{path}", method=method, headers=headers)  # noqa: S310 - link-local
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310 - as above
                text: bytes = reply.read()
        except urllib.error.HTTPError:
            raise
        except OSError as exc:
            raise InfraError(f"the metadata service does not answer: {exc}") from exc
        return text.decode().strip()

"""The local Consul server's HTTP API, as far as a boot needs it."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from infra.errors import InfraError

ASK_EVERY_S = 2.0
_TIMEOUT_S = 10.0
NOT_KNOWN = "ACL not found"
_DONE = ("already exists", "already in use", "no longer allowed")


class ConsulError(InfraError):
    """Consul refused, or did not answer."""


@dataclass(slots=True)
class ConsulServer:
    """One server, with the management token once there is one."""

    address: str = "http://127.0.0.1:8500"
    token: str = ""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def ask(self, method: str, path: str, document: Any = None, *, timeout_s: float = _TIMEOUT_S) -> Any:
        """
        Ask, and return the JSON answer; None for 404.

        Raises:
            ConsulError: Consul refuses or does not answer.
        """
        body = document if isinstance(document, bytes) else None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.address}/v1/{path}", data=body, method=method, headers={"X-Consul-Token": self.token}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:  # noqa: S310 - as above
                text = reply.read()
        except urllib.error.HTTPError as exc:
            if exc.code == 404:
                return None
            raise ConsulError(f"Consul: {method} {path}: {exc.code} {exc.read().decode(errors='replace')}") from exc
        except OSError as exc:
            raise ConsulError(f"Consul: {method} {path}: {exc}") from exc
        return json.loads(text) if text.strip() else None

    def wait_for_leader(self, deadline_s: float) -> None:
        """
        Wait until the servers have elected one.

        Raises:
            ConsulError: they have not, in time.
        """
        self._until(lambda: bool(self.ask("GET", "status/leader")), deadline_s, "no leader")

    def bootstrap(self, secret: str) -> str | None:
        """
        Make *secret* the management token; return the token that Consul made of it, None where there is one already.

        Consul takes ours since 1.11; before, it chooses one itself.

        Raises:
            ConsulError: Consul refuses, or does not answer for a minute.
        """
        made = self._insist("acl/bootstrap", {"BootstrapSecret": secret})
        return str(made["SecretID"]) if made else None

    def wait_to_be_known(self, find_token: Callable[[], str], deadline_s: float) -> None:
        """
        Find a token again and again until Consul knows it; it is `token` from then on.

        Raises:
            ConsulError: Consul knows none of them in time, or does not answer.
        """

        def is_known() -> bool:
            self.token = find_token()
            return self.ask("GET", "acl/token/self") is not None

        self._until(is_known, deadline_s, NOT_KNOWN)

    def policy(self, name: str, rules: str) -> None:
        """
        Write a policy, unless there is one of this name.

        Raises:
            ConsulError: Consul refuses, or does not answer for a minute.
        """
        self._insist("acl/policy", {"Name": name, "Rules": rules})

    def admit(self, secret: str, purpose: str, *policies: str) -> None:
        """
        Make *secret* a token with *policies*, unless it is one.

        Raises:
            ConsulError: Consul refuses, or does not answer for a minute.
        """
        named = [{"Name": name} for name in policies]
        self._insist("acl/token", {"SecretID": secret, "Description": purpose, "Policies": named})

    def put_first(self, key: str, value: str) -> bool:
        """
        Set a key that is not there; return whether it was set.

        Raises:
            ConsulError: Consul refuses or does not answer.
        """
        return bool(self.ask("PUT", f"kv/{key}?cas=0", value.encode()))

    def wait_to_vote(self, node: str, deadline_s: float) -> None:
        """
        Wait until *node* is a voter.

        Raises:
            ConsulError: it is not, in time.
        """

        def votes() -> bool:
            servers = (self.ask("GET", "operator/raft/configuration") or {}).get("Servers", [])
            return any(each["Node"] == node and each["Voter"] for each in servers)

        self._until(votes, deadline_s, f"{node} is no voter")

    def _insist(self, path: str, document: Mapping[str, Any], deadline_s: float = 60.0) -> Any:
        """Write until it is written: servers that have just found each other refuse in several ways."""
        until = self.clock() + deadline_s
        while True:
            try:
                return self.ask("PUT", path, document)
            except ConsulError as exc:
                if any(words in str(exc).lower() for words in _DONE):
                    return None
                if self.clock() >= until:
                    raise
            self.sleep(ASK_EVERY_S)

    def _until(self, is_so: Callable[[], bool], deadline_s: float, otherwise: str) -> None:
        until, last = self.clock() + deadline_s, otherwise
        while self.clock() < until:
            try:
                if is_so():
                    return
                last = otherwise
            except ConsulError as exc:
                last = str(exc)
            self.sleep(ASK_EVERY_S)
        raise ConsulError(f"Consul: {last} after {deadline_s:.0f} s")

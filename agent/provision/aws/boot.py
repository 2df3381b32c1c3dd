"""
From a bare image to its role: a web host is told what it needs, a Consul server also makes what is missing.

Every step may be repeated, by this machine or by another at the same time: of several Consul servers that boot
together each does all of it, and for each secret the first one's counts.
"""

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agent.adapters.consul.policies import Role, policy, policy_name
from agent.adapters.host.atomic_file import write_atomically
from agent.core.model.names import parse_app
from agent.provision.aws import certificates, parameter_store
from agent.provision.aws.consul_server import NOT_KNOWN, ConsulError, ConsulServer
from agent.provision.aws.files import File, Machine, ServerSecrets, WebSecrets, server_files, web_files
from agent.provision.aws.parameter_store import Vault
from infra.aws import Aws, calling
from infra.dns_records import Server, Zone
from infra.errors import AwsError, InfraError

SECRETS_DEADLINE_S = 600.0
QUORUM_DEADLINE_S = 600.0
LEAVE_S = 30.0
"""Consul answers when it has left: after 8 s on a quiet day."""
MANAGEMENT_DEADLINE_S = 60.0
RECOVERY = "docs/infrastructure.md, Backup and restore"
WEB_UNITS = ("consul-client.service", "haproxy.service", "tidegate-agent.service", "tidegate-drain.service")
SERVER_UNITS = ("consul-server.service", "tidegate-agent.service", "tidegate-leave.service")
CONSUL_AGENT = 'node_prefix "" { policy = "write" } service_prefix "" { policy = "read" }'
"""Rights of a machine's Consul agent: one token for a tier, as machines come and go."""


class Host(Protocol):
    """What a boot does to the machine itself."""

    def install(self, files: Iterable[File]) -> None: ...  # noqa: D102 - see LocalHost
    def start(self, units: Sequence[str]) -> None: ...  # noqa: D102 - see LocalHost


@dataclass(frozen=True, slots=True)
class LocalHost:
    """This machine."""

    def install(self, files: Iterable[File]) -> None:
        """Write files, each whole and never readable by more than its reader."""
        for file in files:
            path = Path(file.path)
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomically(path, file.text, mode=file.mode, owner=file.owner)

    def start(self, units: Sequence[str]) -> None:
        """
        Start units, now and at each boot to come, also one at which AWS does not answer; wait for none of them.

        What runs already is left alone: who changes settings restarts what reads them.

        Raises:
            InfraError: systemd refuses.
        """
        for words in (["enable", "--quiet"], ["start", "--no-block"]):
            done = subprocess.run(  # noqa: S603 - fixed words
                ["/usr/bin/systemctl", *words, *units], capture_output=True, text=True, timeout=60, check=False
            )
            if done.returncode != 0:
                raise InfraError(f"systemctl {words[0]}: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Boot:
    """The boot of one machine."""

    machine: Machine
    vault: Vault
    aws: Aws
    host: Host
    consul: ConsulServer
    say: Callable[[str], None]
    make_bundle: Callable[[], certificates.Bundle] = certificates.make

    def run(self) -> None:
        """
        Do all of it.

        Raises:
            InfraError: AWS, Consul or systemd refuse or do not answer in time; the machine may boot again.
        """
        settings = self.vault.settings()
        if self.machine.role == "web":
            self._web(settings)
        else:
            self._server(settings)

    def _web(self, settings: Mapping[str, Any]) -> None:
        wanted = (
            parameter_store.GOSSIP_KEY,
            parameter_store.AUTHORITY,
            parameter_store.WEB_AGENT_TOKEN,
            parameter_store.NODE_TOKEN,
        )
        found = [self.vault.wait(name, deadline_s=SECRETS_DEADLINE_S) for name in wanted]
        self.say("the secrets are there")
        self.host.install(web_files(self.machine, settings, WebSecrets(*found)))
        # Whether it serves is the agent's to say: it ends the launch hook, and signals the stack.
        self.host.start(WEB_UNITS)
        self.say("the agent starts")

    def _server(self, settings: Mapping[str, Any]) -> None:
        bundle = certificates.Bundle.unpack(
            self.vault.claim(parameter_store.CERTIFICATE, lambda: self.make_bundle().pack())
        )
        secrets = ServerSecrets(
            gossip_key=self.vault.claim(parameter_store.GOSSIP_KEY, parameter_store.new_gossip_key),
            bundle=bundle,
            agent_token=self.vault.claim(parameter_store.SERVER_AGENT_TOKEN, parameter_store.new_token),
            coordinator_token=self.vault.claim(parameter_store.COORDINATOR_TOKEN, parameter_store.new_token),
        )
        self.host.install(server_files(self.machine, settings, secrets))
        self.say("secrets are chosen")
        for change in self.zone(settings).sync(me=self._me(), only=self.machine.zone):
            self.say(str(change))
        self.host.start(SERVER_UNITS)
        self.consul.wait_for_leader(QUORUM_DEADLINE_S)
        self.say("Consul has a leader")
        self._admit(settings, secrets)
        # Last, as web hosts wait for it: by now each token they find is one that Consul knows.
        self.vault.claim(parameter_store.AUTHORITY, lambda: bundle.authority)
        self.consul.wait_to_vote(self.machine.node, QUORUM_DEADLINE_S)
        self.say("this server votes")
        self._signal()

    def _admit(self, settings: Mapping[str, Any], secrets: ServerSecrets) -> None:
        self._manage()
        app = parse_app(settings["app"]["name"])
        self.consul.policy("tidegate-consul-agent", CONSUL_AGENT)
        names = {role: policy_name(role, app) for role in Role}
        for role, name in names.items():
            self.consul.policy(name, policy(role, app))
        self.consul.admit(secrets.agent_token, "Consul agents of servers", "tidegate-consul-agent")
        self.consul.admit(secrets.coordinator_token, "coordinators", names[Role.COORDINATOR])
        for where, purpose, of_policy in (
            (parameter_store.WEB_AGENT_TOKEN, "Consul agents of web hosts", "tidegate-consul-agent"),
            (parameter_store.NODE_TOKEN, "web hosts", names[Role.NODE]),
            (parameter_store.OPERATOR_TOKEN, "operators", names[Role.OPERATOR]),
            (parameter_store.READ_ONLY_TOKEN, "read-only", names[Role.READ_ONLY]),
        ):
            self.consul.admit(self.vault.claim(where, parameter_store.new_token), purpose, of_policy)
        if settings["initial_image"] and self.consul.put_first(f"{app}/active/image", settings["initial_image"]):
            self.say(f"{app}/active/image is {settings['initial_image']}")
        self.say("Consul knows all tokens")

    def _manage(self) -> None:
        """Get the management token: make it, or use what another server made."""
        chosen = self.vault.claim(parameter_store.MANAGEMENT, parameter_store.new_token)
        made = self.consul.bootstrap(chosen)
        if made is None:
            # Where Consul chose it (before 1.11), the server that was first may not have written it down yet.
            self._use_the_others(chosen)
            return
        self.consul.token = made
        if made != chosen:
            self.vault.replace(parameter_store.MANAGEMENT, made)

    def _use_the_others(self, chosen: str) -> None:
        try:
            self.consul.wait_to_be_known(
                lambda: self.vault.get(parameter_store.MANAGEMENT) or chosen, MANAGEMENT_DEADLINE_S
            )
        except ConsulError as exc:
            if NOT_KNOWN not in str(exc):
                raise
            where = self.vault.path(parameter_store.MANAGEMENT)
            raise ConsulError(f"the management token in {where} is not Consul's: {exc}; see {RECOVERY}") from exc

    def zone(self, settings: Mapping[str, Any]) -> Zone:
        """Return the stack's private zone."""
        clients = self.aws.client("route53"), self.aws.client("ec2")
        return Zone(*clients, settings["zone_id"], settings["domain"], self.machine.stack)

    def _me(self) -> Server:
        from datetime import UTC, datetime  # noqa: PLC0415

        return Server(datetime.now(UTC), self.machine.instance, self.machine.zone, self.machine.host)

    def _signal(self) -> None:
        api, machine = self.aws.client("cloudformation"), self.machine
        try:
            with calling("signal the stack"):
                api.signal_resource(
                    StackName=machine.stack,
                    LogicalResourceId=machine.group,
                    UniqueId=machine.instance,
                    Status="SUCCESS",
                )
        except AwsError as exc:
            # Outside an update the stack waits for nobody, and says so.
            self.say(str(exc))


def leave(boot: Boot, hook: str) -> None:
    """
    Let a Consul server go: its name to another, its vote out of the quorum, then the group's hook.

    Each step is tried even where one before it failed: the instance ends in any case.
    """
    machine, say = boot.machine, boot.say

    def name() -> None:
        zone = boot.zone(boot.vault.settings())
        for change in zone.sync(leaving=machine.instance, only=machine.zone):
            say(str(change))

    def vote() -> None:
        boot.consul.token = boot.vault.get(parameter_store.MANAGEMENT) or ""
        boot.consul.ask("PUT", "agent/leave", timeout_s=LEAVE_S)
        say("left Consul")

    def complete() -> None:
        scaling = boot.aws.client("autoscaling")
        with calling("complete the leave hook"):
            found = scaling.describe_auto_scaling_instances(InstanceIds=[machine.instance])["AutoScalingInstances"]
            for each in found:
                scaling.complete_lifecycle_action(
                    LifecycleHookName=hook,
                    AutoScalingGroupName=each["AutoScalingGroupName"],
                    InstanceId=machine.instance,
                    LifecycleActionResult="CONTINUE",
                )
        say("the leave hook is complete")

    for step in (name, vote, complete):
        try:
            step()
        except InfraError as exc:
            say(str(exc))

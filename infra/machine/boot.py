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

from infra.aws import Aws, calling, patiently
from infra.dns_records import Server, Zone
from infra.errors import AwsError, InfraError
from infra.machine import tls, vault
from infra.machine.consul import NOT_KNOWN, ConsulError, ConsulServer
from infra.machine.files import File, Machine, ServerSecrets, WebSecrets, server_files, web_files
from infra.machine.vault import Vault

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
            install(Path(file.path), file)

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


def install(path: Path, file: File) -> None:
    """Write *file* at *path*: temporary file, owner and mode, then the name."""
    import os  # noqa: PLC0415
    import shutil  # noqa: PLC0415

    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(file.text)
    shutil.chown(new, file.owner, file.owner)
    new.chmod(file.mode)
    new.replace(path)


@dataclass(frozen=True, slots=True)
class Boot:
    """The boot of one machine."""

    machine: Machine
    vault: Vault
    aws: Aws
    host: Host
    consul: ConsulServer
    policies: Path
    """Directory of the agent's ACL policies."""
    say: Callable[[str], None]
    make_bundle: Callable[[], tls.Bundle] = tls.make

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
        wanted = (vault.GOSSIP_KEY, vault.AUTHORITY, vault.WEB_AGENT_TOKEN, vault.NODE_TOKEN)
        found = [self.vault.wait(name, deadline_s=SECRETS_DEADLINE_S) for name in wanted]
        self.say("the secrets are there")
        self.host.install(web_files(self.machine, settings, WebSecrets(*found)))
        # Whether it serves is the agent's to say: it ends the launch hook, and signals the stack.
        self.host.start(WEB_UNITS)
        self.say("the agent starts")

    def _server(self, settings: Mapping[str, Any]) -> None:
        bundle = tls.Bundle.unpack(self.vault.claim(vault.CERTIFICATE, lambda: self.make_bundle().pack()))
        secrets = ServerSecrets(
            gossip_key=self.vault.claim(vault.GOSSIP_KEY, vault.new_gossip_key),
            bundle=bundle,
            agent_token=self.vault.claim(vault.SERVER_AGENT_TOKEN, vault.new_token),
            coordinator_token=self.vault.claim(vault.COORDINATOR_TOKEN, vault.new_token),
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
        self.vault.claim(vault.AUTHORITY, lambda: bundle.authority)
        self.consul.wait_to_vote(self.machine.node, QUORUM_DEADLINE_S)
        self.say("this server votes")
        self._signal()

    def _admit(self, settings: Mapping[str, Any], secrets: ServerSecrets) -> None:
        self._manage()
        app = settings["app"]["name"]
        self.consul.policy("tidegate-consul-agent", CONSUL_AGENT)
        names = {role: f"tidegate-{app}-{role}" for role in ("node", "coordinator", "operator", "read-only")}
        for role, name in names.items():
            rules = (self.policies / f"{role}.hcl").read_text(encoding="utf-8").replace("{app}", app)
            self.consul.policy(name, rules)
        self.consul.admit(secrets.agent_token, "Consul agents of servers", "tidegate-consul-agent")
        self.consul.admit(secrets.coordinator_token, "coordinators", names["coordinator"])
        for where, purpose, policy in (
            (vault.WEB_AGENT_TOKEN, "Consul agents of web hosts", "tidegate-consul-agent"),
            (vault.NODE_TOKEN, "web hosts", names["node"]),
            (vault.OPERATOR_TOKEN, "operators", names["operator"]),
            (vault.READ_ONLY_TOKEN, "read-only", names["read-only"]),
        ):
            self.consul.admit(self.vault.claim(where, vault.new_token), purpose, policy)
        if settings["initial_image"] and self.consul.put_first(f"{app}/active/image", settings["initial_image"]):
            self.say(f"{app}/active/image is {settings['initial_image']}")
        self.say("Consul knows all tokens")

    def _manage(self) -> None:
        """Get the management token: make it, or use what another server made."""
        chosen = self.vault.claim(vault.MANAGEMENT, vault.new_token)
        made = self.consul.bootstrap(chosen)
        if made is None:
            # Where Consul chose it (before 1.11), the server that was first may not have written it down yet.
            self._use_the_others(chosen)
            return
        self.consul.token = made
        if made != chosen:
            self.vault.replace(vault.MANAGEMENT, made)

    def _use_the_others(self, chosen: str) -> None:
        try:
            self.consul.wait_to_be_known(lambda: self.vault.get(vault.MANAGEMENT) or chosen, MANAGEMENT_DEADLINE_S)
        except ConsulError as exc:
            if NOT_KNOWN not in str(exc):
                raise
            where = self.vault.path(vault.MANAGEMENT)
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

        def send() -> None:
            with calling("signal the stack"):
                api.signal_resource(
                    StackName=machine.stack,
                    LogicalResourceId=machine.group,
                    UniqueId=machine.instance,
                    Status="SUCCESS",
                )

        try:
            patiently(send)
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
        boot.consul.token = boot.vault.get(vault.MANAGEMENT) or ""
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

"""
From a bare image to its role: a web host is told what it needs, a Consul server also makes what is missing.

Every step may be repeated, by this machine or by another at the same time: of several Consul servers that boot
together each does all of it, and for each secret the first one's counts.

What is asked of this host and of Consul is awaited; AWS's library and systemd block, as nothing else runs meanwhile.
"""

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from agent.adapters.aws.ec2 import Ec2
from agent.adapters.consul.policies import Role, policy, policy_name
from agent.adapters.host.atomic_file import write_atomically
from agent.core.model.errors import Ec2RefusedError, Ec2UnavailableError, PermanentError, TidegateError
from agent.core.model.keys import active_image
from agent.core.model.names import parse_app
from agent.provision.aws import certificates, parameter_store
from agent.provision.aws.consul_server import ConsulServer
from agent.provision.aws.files import File, Machine, ServerSecrets, WebSecrets, server_files, web_files
from agent.provision.aws.instance import complete_hook, signal_stack
from agent.provision.aws.parameter_store import ParameterStore
from infra.aws import Aws
from infra.dns_records import Server, Zone
from infra.errors import InfraError

SECRETS_DEADLINE_S = 600.0
QUORUM_DEADLINE_S = 600.0
MANAGEMENT_DEADLINE_S = 60.0
FAILURES = (InfraError, TidegateError)
"""The first of what AWS's library is asked, the second of everything else."""
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
            PermanentError: systemd refuses.
        """
        for words in (["enable", "--quiet"], ["start", "--no-block"]):
            done = subprocess.run(  # noqa: S603 - fixed words
                ["/usr/bin/systemctl", *words, *units], capture_output=True, text=True, timeout=60, check=False
            )
            if done.returncode != 0:
                raise PermanentError(f"systemctl {words[0]}: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Boot:
    """The boot of one machine."""

    machine: Machine
    parameter_store: ParameterStore
    aws: Aws
    ec2: Ec2
    host: Host
    consul: ConsulServer
    say: Callable[[str], None]
    make_bundle: Callable[[], certificates.Bundle] = certificates.make

    async def run(self) -> None:
        """
        Do all of it.

        Raises:
            InfraError: AWS refuses or does not answer in time; the machine may boot again.
            TidegateError: the same of Consul and systemd.
        """
        settings = self.parameter_store.settings()
        if self.machine.role == "web":
            self._web(settings)
        else:
            await self._server(settings)

    def _web(self, settings: Mapping[str, Any]) -> None:
        wanted = (
            parameter_store.GOSSIP_KEY,
            parameter_store.AUTHORITY,
            parameter_store.WEB_AGENT_TOKEN,
            parameter_store.NODE_TOKEN,
        )
        found = [self.parameter_store.wait(name, deadline_s=SECRETS_DEADLINE_S) for name in wanted]
        self.say("the secrets are there")
        self.host.install(web_files(self.machine, settings, WebSecrets(*found)))
        # Whether it serves is the agent's to say: it ends the launch hook, and signals the stack.
        self.host.start(WEB_UNITS)
        self.say("the agent starts")

    async def _server(self, settings: Mapping[str, Any]) -> None:
        bundle = certificates.Bundle.unpack(
            self.parameter_store.claim(parameter_store.CERTIFICATE, lambda: self.make_bundle().pack())
        )
        secrets = ServerSecrets(
            gossip_key=self.parameter_store.claim(parameter_store.GOSSIP_KEY, parameter_store.new_gossip_key),
            bundle=bundle,
            agent_token=self.parameter_store.claim(parameter_store.SERVER_AGENT_TOKEN, parameter_store.new_token),
            coordinator_token=self.parameter_store.claim(parameter_store.COORDINATOR_TOKEN, parameter_store.new_token),
        )
        self.host.install(server_files(self.machine, settings, secrets))
        self.say("secrets are chosen")
        for change in self.zone(settings).sync(me=self._me(), only=self.machine.zone):
            self.say(str(change))
        self.host.start(SERVER_UNITS)
        await self.consul.wait_for_leader(QUORUM_DEADLINE_S)
        self.say("Consul has a leader")
        await self._admit(settings, secrets)
        # Last, as web hosts wait for it: by now each token they find is one that Consul knows.
        self.parameter_store.claim(parameter_store.AUTHORITY, lambda: bundle.authority)
        await self.consul.wait_to_vote(self.machine.node, QUORUM_DEADLINE_S)
        self.say("this server votes")
        await self._signal()

    async def _admit(self, settings: Mapping[str, Any], secrets: ServerSecrets) -> None:
        await self._manage()
        app = parse_app(settings["app"]["name"])
        await self.consul.create_policy("tidegate-consul-agent", CONSUL_AGENT)
        names = {role: policy_name(role, app) for role in Role}
        for role, name in names.items():
            await self.consul.create_policy(name, policy(role, app))
        await self.consul.create_token(secrets.agent_token, "Consul agents of servers", "tidegate-consul-agent")
        await self.consul.create_token(secrets.coordinator_token, "coordinators", names[Role.COORDINATOR])
        for where, purpose, of_policy in (
            (parameter_store.WEB_AGENT_TOKEN, "Consul agents of web hosts", "tidegate-consul-agent"),
            (parameter_store.NODE_TOKEN, "web hosts", names[Role.NODE]),
            (parameter_store.OPERATOR_TOKEN, "operators", names[Role.OPERATOR]),
            (parameter_store.READ_ONLY_TOKEN, "read-only", names[Role.READ_ONLY]),
        ):
            await self.consul.create_token(
                self.parameter_store.claim(where, parameter_store.new_token), purpose, of_policy
            )
        first = settings["initial_image"]
        if first and await self.consul.put_first(active_image(app), first):
            self.say(f"{active_image(app)} is {first}")
        self.say("Consul knows all tokens")

    async def _manage(self) -> None:
        """Get the management token: make it, or use what another server made."""
        chosen = self.parameter_store.claim(parameter_store.MANAGEMENT, parameter_store.new_token)
        made = await self.consul.bootstrap(chosen)
        if made is None:
            # Where Consul chose it (before 1.11), the server that was first may not have written it down yet.
            await self._use_the_others(chosen)
            return
        self.consul.token = made
        if made != chosen:
            self.parameter_store.replace(parameter_store.MANAGEMENT, made)

    async def _use_the_others(self, chosen: str) -> None:
        try:
            await self.consul.wait_to_be_known(
                lambda: self.parameter_store.get(parameter_store.MANAGEMENT) or chosen, MANAGEMENT_DEADLINE_S
            )
        except PermanentError as exc:
            where = self.parameter_store.path(parameter_store.MANAGEMENT)
            raise PermanentError(f"the management token in {where} is not Consul's: {exc}; see {RECOVERY}") from exc

    def zone(self, settings: Mapping[str, Any]) -> Zone:
        """Return the stack's private zone."""
        clients = self.aws.client("route53"), self.aws.client("ec2")
        return Zone(*clients, settings["zone_id"], settings["domain"], self.machine.stack)

    def _me(self) -> Server:
        return Server(datetime.now(UTC), self.machine.instance, self.machine.zone, self.machine.host)

    async def _signal(self) -> None:
        try:
            await signal_stack(self.ec2, self.machine)
        except (Ec2RefusedError, Ec2UnavailableError) as exc:
            # Outside an update the stack waits for nobody, and says so.
            self.say(str(exc))


async def leave(boot: Boot, hook: str) -> None:
    """
    Let a Consul server go: its name to another, its vote out of the quorum, then the group's hook.

    Each step is tried even where one before it failed: the instance ends in any case.
    """
    machine, say = boot.machine, boot.say

    async def name() -> None:
        zone = boot.zone(boot.parameter_store.settings())
        for change in zone.sync(leaving=machine.instance, only=machine.zone):
            say(str(change))

    async def vote() -> None:
        boot.consul.token = boot.parameter_store.get(parameter_store.MANAGEMENT) or ""
        await boot.consul.leave()
        say("left Consul")

    async def complete() -> None:
        await complete_hook(boot.ec2, machine, hook)
        say("the leave hook is complete")

    for step in (name, vote, complete):
        try:
            await step()
        except FAILURES as exc:
            say(str(exc))

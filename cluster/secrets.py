"""All that is secret about one cluster, made once: authority, certificates, keys, passwords, ACL tokens."""

import asyncio
import json
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from cluster.servers.registry import Login, bcrypt
from cluster.servers.tools import run

DOMAIN = "cs90"
ZONES = ("a", "b", "c")
SERVERS = tuple(f"consul-{zone}" for zone in ZONES)
REGISTRY = f"registry.{DOMAIN}:5000"
"""As machines call it."""
_SERVER_CERTIFICATE = "dc1-server-consul-0"


@dataclass(slots=True)
class Secrets:
    """
    The secrets in one directory; made by `create`, read again by `load`.

    ACL tokens get their values before Consul knows them: so each machine is told its own before anything runs.
    """

    home: Path
    gossip_key: str
    login: Login
    tokens: dict[str, str] = field(default_factory=dict)
    """By purpose, such as ``node/web-1``."""

    def token(self, purpose: str) -> str:
        """Return the token for *purpose*, chosen when it is first asked for."""
        if purpose not in self.tokens:
            self.tokens[purpose] = str(uuid.uuid4())
            self.save()
        return self.tokens[purpose]

    @property
    def ca(self) -> Path:
        """Certificate of the authority."""
        return self.home / "consul-agent-ca.pem"

    @property
    def certificate(self) -> Path:
        """What Consul servers and the registry show."""
        return self.home / f"{_SERVER_CERTIFICATE}.pem"

    @property
    def key(self) -> Path:
        """Its key."""
        return self.home / f"{_SERVER_CERTIFICATE}-key.pem"

    def save(self) -> None:
        """Write down what is no file of its own."""
        kept = {
            "gossip_key": self.gossip_key,
            "login": [self.login.user, self.login.password],
            "tokens": self.tokens,
        }
        file = self.home / "secrets.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(kept, indent=1))

    @classmethod
    def load(cls, home: Path) -> "Secrets":
        """Read those of a cluster that exists."""
        kept = json.loads((home / "secrets.json").read_text())
        return cls(home, kept["gossip_key"], Login(*kept["login"]), kept["tokens"])


async def create(home: Path) -> Secrets:
    """Make the secrets of a new cluster in *home*, which is made (mode 0700)."""
    await asyncio.to_thread(home.mkdir, mode=0o700, parents=True)
    await run(["consul", "tls", "ca", "create"], cwd=home, timeout_s=20)
    names = (f"-additional-dnsname={name}" for name in (REGISTRY.partition(":")[0], "localhost"))
    await run(["consul", "tls", "cert", "create", "-server", *names], cwd=home, timeout_s=20)
    gossip_key = (await run(["consul", "keygen"], timeout_s=20)).strip()
    made = Secrets(home, gossip_key, Login("cluster", uuid.uuid4().hex))
    registry = home / "registry"
    registry.mkdir(mode=0o700)
    shutil.copy(made.certificate, registry / "cert.pem")
    shutil.copy(made.key, registry / "key.pem")
    (registry / "htpasswd").write_text(f"{made.login.user}:{await bcrypt(made.login.password)}\n")
    made.save()
    return made

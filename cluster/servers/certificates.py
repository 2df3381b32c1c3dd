"""Certificates of a test's own authority, as ``consul tls`` makes them, for a Consul that speaks HTTPS."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.servers.tools import run

_DC = "dc1"


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority, a server's certificate for ``localhost`` and ``127.0.0.1``, and a client's."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    def trusting(self) -> ssl.SSLContext:
        """Return what a client needs that trusts the authority and shows its certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.client, self.client_key)
        return context

    def consul_config(self) -> dict[str, Any]:
        """Return Consul's settings: HTTPS, and only for clients with a certificate."""
        return {
            "ca_file": str(self.ca),
            "cert_file": str(self.server),
            "key_file": str(self.server_key),
            "verify_incoming_https": True,
        }


async def make_certificates(home: Path) -> Certificates:
    """Make an authority and certificates in *home*, which must be empty."""
    await run(["consul", "tls", "ca", "create"], cwd=home, timeout_s=20)
    for side in ("-server", "-client"):
        await run(["consul", "tls", "cert", "create", side, "-dc", _DC], cwd=home, timeout_s=20)
    names = (f"{_DC}-server-consul-0", f"{_DC}-client-consul-0")
    files = [home / f"{name}{suffix}.pem" for name in names for suffix in ("", "-key")]
    return Certificates(home / "consul-agent-ca.pem", *files)

"""Plans of a Consul agent: a client and a server."""

from typing import Any

SERVER: dict[str, Any] = {
    "mode": "server",
    "node": "consul-a",
    "zones": ["a", "b", "c"],
    "domain": "cs90",
    "tls": {"ca_file": "/ca", "cert_file": "/cert", "key_file": "/key"},
}

CLIENT: dict[str, Any] = {"mode": "client", "node": "web-1", "zones": ["a", "b", "c"], "domain": "cs90"}

"""The authority and the certificate of the Consul servers, made with Consul's own tool."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agent.core.model.errors import PermanentError

DAYS = 1825
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Bundle:
    """All three in one parameter: they only fit each other."""

    authority: str
    authority_key: str
    certificate: str
    key: str

    def pack(self) -> str:
        """Return it as text; compact, as a parameter holds 4 KiB."""
        parts = (self.authority, self.authority_key, self.certificate, self.key)
        return json.dumps([part.strip() + "\n" for part in parts], separators=(",", ":"))

    @classmethod
    def unpack(cls, text: str) -> "Bundle":
        """Read what `pack` wrote."""
        return cls(*json.loads(text))


def make(binary: str = "consul", *, days: int = DAYS) -> Bundle:
    """
    Make an authority, and a certificate for servers.

    Raises:
        PermanentError: Consul's tool is missing or fails.
    """
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        _run(home, binary, "tls", "ca", "create", f"-days={days}")
        _run(home, binary, "tls", "cert", "create", "-server", f"-days={days}", "-additional-dnsname=localhost")
        names = (
            "consul-agent-ca.pem",
            "consul-agent-ca-key.pem",
            "dc1-server-consul-0.pem",
            "dc1-server-consul-0-key.pem",
        )
        return Bundle(*((home / name).read_text() for name in names))


def _run(home: Path, *words: str) -> None:
    try:
        done = subprocess.run(words, cwd=home, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603 - fixed words
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise PermanentError(f"{' '.join(words[:3])}: {exc}") from exc
    if done.returncode != 0:
        raise PermanentError(f"{' '.join(words[:3])}: {done.stderr.strip() or done.stdout.strip()}")

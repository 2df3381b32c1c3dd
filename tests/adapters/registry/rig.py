"""What the suites of registries share: documents, digests, and what `docker login` leaves behind."""

import base64
import hashlib
import json
from pathlib import Path

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def config_of(tmp_path: Path, server: str, entry: dict[str, str]) -> Path:
    """Write what `docker login` would."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {server: entry}}))
    return path


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def document(kind: str, **fields: object) -> bytes:
    """Write a manifest."""
    return json.dumps({"schemaVersion": 2, "mediaType": kind, **fields}).encode()


def digest_of(body: bytes) -> str:
    """Return a document's digest."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"

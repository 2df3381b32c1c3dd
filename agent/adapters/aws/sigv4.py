"""
AWS Signature Version 4 for the two small calls an agent makes. Pure.

boto3 would do it, too, and cost every agent 40 MiB for life.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

_CONTENT_TYPE = "application/x-www-form-urlencoded; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of the instance's role; short-lived."""

    key_id: str
    secret: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call goes."""

    url: str
    service: str
    region: str


def sign(target: Target, body: bytes, credentials: Credentials, at: datetime) -> Mapping[str, str]:
    """
    Return the headers of a POST of *body* (a query string) to *target*.

    Args:
        at: the time, in UTC; AWS refuses one that is more than five minutes off.
    """
    stamp, day = at.strftime("%Y%m%dT%H%M%SZ"), at.strftime("%Y%m%d")
    parts = urlsplit(target.url)
    headers = {"content-type": _CONTENT_TYPE, "host": parts.netloc, "x-amz-date": stamp}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}\n" for name in sorted(headers)]
    request = "\n".join(["POST", parts.path or "/", "", "".join(lines), names, hashlib.sha256(body).hexdigest()])
    scope = f"{day}/{target.region}/{target.service}/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{credentials.secret}".encode()
    for part in (day, target.region, target.service, "aws4_request"):
        key = _hmac(key, part)
    signature = _hmac(key, to_sign).hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()

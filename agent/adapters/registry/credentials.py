"""
Registry credentials, from where ``docker login`` and credential helpers keep them.

Read anew at each pull: helpers hand out tokens that live for hours only. Nothing read here is logged.
"""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path

from agent.adapters.host.subprocess import run_command
from agent.adapters.registry.reference import DOCKER_HUB
from agent.core.model.errors import ImagePullError, ImageRefusedError
from agent.core.model.names import printable

HELPER_S = 30.0
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", DOCKER_HUB)
"""Under which Docker Hub's login or helper may stand: the first is what Docker writes."""
_WEB_LOGIN = ("/access-token", "/refresh-token")
"""Ends of the keys of a web login's own tokens, which are no passwords of the registry."""
_HELPER = re.compile(r"[A-Za-z0-9_.-]+")


async def registry_auth(config: Path, registry: str) -> Mapping[str, str] | None:
    """
    Find the credentials for *registry* (``host[:port]``), by Docker's order: credHelpers, credsStore, auths.

    Returns: ``username`` and ``password``, or ``identitytoken``; None where there are none (or no file).

    Raises:
        ImageRefusedError: the file is unreadable, or it names a helper that is not installed.
        ImagePullError: the helper failed or gave no answer within 30 s.
    """
    data = _read(config)
    keys = _HUB_KEYS if registry == DOCKER_HUB else (registry,)
    helpers = _entry(data, "credHelpers")
    helper = next((helpers[key] for key in keys if key in helpers), None) or data.get("credsStore")
    if isinstance(helper, str) and (found := await _ask_helper(helper, keys[0])):
        return found
    return _stored(config, _login(_entry(data, "auths"), keys))


def encoded(auth: Mapping[str, str], registry: str) -> str:
    """Return *auth* as the ``X-Registry-Auth`` header wants it."""
    document = json.dumps({**auth, "serveraddress": registry})
    return base64.urlsafe_b64encode(document.encode()).decode("ascii")


def _read(config: Path) -> Mapping[str, object]:
    try:
        data = json.loads(config.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise ImageRefusedError(f"Docker configuration {config}: {type(exc).__name__}: not readable") from exc
    return data if isinstance(data, dict) else {}


def _entry(data: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def _login(auths: Mapping[str, object], keys: tuple[str, ...]) -> object:
    """Return the entry under one of *keys*; else one for its host, the host's own before one of a path below it."""
    if exact := [auths[key] for key in keys if key in auths]:
        return exact[0]
    hosts = {_host(key) for key in keys}
    names = (name for name in auths if _host(name) in hosts and not name.endswith(_WEB_LOGIN))
    return next((auths[name] for name in sorted(names, key=len)), None)


def _host(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _stored(config: Path, entry: object) -> Mapping[str, str] | None:
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return {"identitytoken": str(token)}
    if "username" in entry and not entry.get("auth"):
        return {"username": str(entry["username"]), "password": str(entry.get("password", ""))}
    try:
        text = base64.b64decode(str(entry.get("auth", "")), validate=True).decode("utf-8")
    except (binascii.Error, ValueError) as exc:
        raise ImageRefusedError(f"Docker configuration {config}: an entry of 'auths' is damaged") from exc
    username, colon, password = text.rstrip("\0").partition(":")
    return {"username": username, "password": password} if colon else None


async def _ask_helper(name: str, key: str) -> Mapping[str, str] | None:
    if not _HELPER.fullmatch(name):
        raise ImageRefusedError(f"credential helper {printable(name)}: no usable name")
    program = f"docker-credential-{name}"
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            program, "get", stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as exc:
        raise ImageRefusedError(f"credential helper {program}: {exc.strerror or exc}") from exc
    try:
        output = await run_command(process, HELPER_S, key.encode())
    except TimeoutError as exc:
        raise ImagePullError(f"credential helper {program}: no answer within {HELPER_S:g}s") from exc
    return _answer(program, process.returncode, output)


def _answer(program: str, status: int | None, output: bytes) -> Mapping[str, str] | None:
    text = output.decode("utf-8", "replace").strip()
    if status != 0:
        if "credentials not found" in text:
            return None
        raise ImagePullError(f"credential helper {program} failed ({status}): {printable(text, 200)}")
    try:
        answer = json.loads(text)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        # The cause holds what the helper said, a secret: it is not chained.
        raise ImagePullError(f"credential helper {program}: its answer is not a credential helper's JSON") from None
    if username == "<token>":
        return {"identitytoken": secret}
    return {"username": username, "password": secret}

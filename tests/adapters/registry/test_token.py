"""A registry behind a token server, as public ones are: its own small one here, as the lab's registry has none."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from agent.adapters.registry.client import Registries
from agent.adapters.registry.token import TOKEN_MAX_BYTES, Challenge
from agent.core.model.errors import ImagePullError, ImageRefusedError
from agent.core.model.names import ImageReference, parse_reference
from cluster.servers.ports import free_port
from tests.adapters.registry.rig import INDEX, basic, config_of, digest_of, document

TOKEN = "token-of-the-test"
BODY = document(INDEX, manifests=[])


@dataclass(slots=True)
class Guarded:
    """A registry and its token server on one port."""

    port: int
    status: int = 200
    names_digest: bool = True
    takes_head: bool = True
    realm: str | None = None
    token_status: int = 200
    token_answer: object = field(default_factory=lambda: {"token": TOKEN, "expires_in": 60})
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""
    logins: list[tuple[str | None, dict[str, str]]] = field(default_factory=list)
    """Authorization header, and query or form, of each request for a token."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def image(self) -> ImageReference:
        return parse_reference(f"{self.address}/team/app:1.0")

    async def manifest(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            realm = f"http://{self.address}/token" if self.realm is None else self.realm
            challenge = f'Bearer realm="{realm}",service="lab registry",scope="repository:team/app:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if request.method == "HEAD" and not self.takes_head:
            return web.Response(status=405)
        headers = {"Docker-Content-Digest": digest_of(BODY)} if self.names_digest else {}
        body = BODY if self.status == 200 else b"busy"
        return web.Response(status=self.status, body=body, headers=headers)

    async def token(self, request: web.Request) -> web.Response:
        asked = {**request.query} if request.method == "GET" else {**await request.post()}
        self.logins.append((request.headers.get("Authorization"), {key: str(value) for key, value in asked.items()}))
        return web.json_response(self.token_answer, status=self.token_status)


@asynccontextmanager
async def running() -> AsyncIterator[Guarded]:
    guarded = Guarded(free_port())
    app = web.Application()
    app.add_routes([web.get("/v2/{name:.*}/manifests/{tag}", guarded.manifest)])
    app.add_routes([web.get("/token", guarded.token), web.post("/token", guarded.token)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", guarded.port).start()
        yield guarded
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture(name="guarded")
async def _guarded() -> AsyncIterator[Guarded]:
    async with running() as guarded:
        yield guarded


async def test_an_anonymous_token_is_asked_for_what_is_needed(guarded: Guarded, tmp_path: Path) -> None:
    """By HEAD, so that nothing is downloaded; service and scope are the registry's words."""
    assert await Registries(tmp_path / "none.json").digest(guarded.image) == digest_of(BODY)
    assert guarded.logins == [(None, {"service": "lab registry", "scope": "repository:team/app:pull"})]
    assert guarded.asked == [("HEAD", "/v2/team/app/manifests/1.0")] * 2


async def test_a_password_is_shown_to_the_token_server(guarded: Guarded, tmp_path: Path) -> None:
    """As Basic credentials, and never to the registry itself."""
    entry = basic("ci", "pass:word")
    assert await Registries(config_of(tmp_path, guarded.address, entry)).digest(guarded.image)
    assert [header for header, _ in guarded.logins] == [f"Basic {entry['auth']}"]


async def test_an_identity_token_is_exchanged(guarded: Guarded, tmp_path: Path) -> None:
    """By the refresh flow, whose answer calls the token otherwise."""
    guarded.token_answer = {"access_token": TOKEN}
    config = config_of(tmp_path, guarded.address, {"identitytoken": "refresh-me"})
    assert await Registries(config).digest(guarded.image) == digest_of(BODY)
    (login,) = guarded.logins
    assert login == (
        None,
        {
            "grant_type": "refresh_token",
            "refresh_token": "refresh-me",
            "client_id": "tidegate",
            "service": "lab registry",
            "scope": "repository:team/app:pull",
        },
    )


@pytest.mark.parametrize("takes_head", [True, False])
async def test_a_registry_that_names_no_digest_is_asked_for_the_manifest(
    guarded: Guarded, tmp_path: Path, *, takes_head: bool
) -> None:
    """Its digest is that of the bytes; also where HEAD is not known."""
    guarded.names_digest, guarded.takes_head = False, takes_head
    assert await Registries(tmp_path / "none.json").digest(guarded.image) == digest_of(BODY)
    assert guarded.asked[-1][0] == "GET"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_registry_is_asked_again_later(guarded: Guarded, tmp_path: Path, status: int) -> None:
    """Rate limits and outages pass."""
    guarded.status = status
    with pytest.raises(ImagePullError, match=str(status)):
        await Registries(tmp_path / "none.json").digest(guarded.image)


@pytest.mark.parametrize(
    ("status", "error"), [(401, ImageRefusedError), (403, ImageRefusedError), (503, ImagePullError)]
)
async def test_a_token_server_may_refuse_or_be_away(
    guarded: Guarded, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    """A refused login is final, an outage is not; neither message quotes a secret."""
    guarded.token_status, guarded.token_answer = status, {"details": "hunter2 refused"}
    with pytest.raises(error, match="token server") as caught:
        await Registries(config_of(tmp_path, guarded.address, basic("ci", "hunter2"))).digest(guarded.image)
    assert "hunter2" not in str(caught.value)


async def test_an_answer_without_end_is_not_read(guarded: Guarded, tmp_path: Path) -> None:
    """Whatever answers in the token server's place may send for ever."""
    guarded.token_answer = {"token": "x" * TOKEN_MAX_BYTES}
    with pytest.raises(ImagePullError, match=f"more than {TOKEN_MAX_BYTES} bytes"):
        await Registries(tmp_path / "none.json").digest(guarded.image)


@pytest.mark.parametrize("answer", [{}, {"token": ""}, ["hunter2"], {"token": {"hunter2": 1}}])
async def test_an_answer_without_a_token_is_no_login(guarded: Guarded, tmp_path: Path, answer: object) -> None:
    """Something else answers in the token server's place; what it said may be a secret."""
    guarded.token_answer = answer
    with pytest.raises(ImagePullError, match="without a token") as caught:
        await Registries(tmp_path / "none.json").digest(guarded.image)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "realm",
    [
        "http://elsewhere.invalid/token",
        "http://127.0.0.1:80@elsewhere.invalid/token",
        "https://127.0.0.1:80@elsewhere.invalid/token",
        "ftp://elsewhere.invalid/",
        "file:///etc/passwd",
        "",
    ],
)
async def test_a_login_is_shown_to_no_plain_token_server(guarded: Guarded, tmp_path: Path, realm: str) -> None:
    """A registry that is told where to send the password must not be able to send it in the clear."""
    guarded.realm = realm
    with pytest.raises(ImageRefusedError, match="token server"):
        await Registries(config_of(tmp_path, guarded.address, basic("ci", "hunter2"))).digest(guarded.image)
    assert guarded.logins == []


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        (
            'Bearer realm="https://auth.example/token",service="a b",scope="repository:x:pull"',
            Challenge("bearer", "https://auth.example/token", "a b", "repository:x:pull"),
        ),
        (
            'BEARER Realm="https://auth.example/token"',
            Challenge("bearer", "https://auth.example/token", "", "repository:team/app:pull"),
        ),
        ('Basic realm="lab"', Challenge("basic", "lab", "", "repository:team/app:pull")),
        ("", Challenge("", "", "", "repository:team/app:pull")),
    ],
)
def test_a_challenge_is_read(header: str, challenge: Challenge) -> None:
    """Schemes and names in any case; the scope is made up where none is given."""
    assert Challenge.read(header, "team/app") == challenge

"""The transport to Consul: addresses, tokens, TLS, and what a healthy server does not do on demand."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from agent.adapters.consul.kv import Block, ConsulClient
from agent.adapters.consul.transport import TokenSource, parse_address
from agent.core.model.errors import ConsulForbiddenError, ConsulUnavailableError, PermanentError
from cluster.servers.ports import free_port
from cluster.servers.tools import run
from tests.adapters.fakes.consul import FakeConsul
from tests.adapters.fakes.consul import running as fake_running
from tests.adapters.fakes.consul_faults import Fault
from tests.raw_server import raw_server


@pytest.fixture
async def fake() -> AsyncIterator[FakeConsul]:
    """A fake to switch faults on."""
    async with fake_running() as made:
        yield made


class TestFaults:
    """What a healthy server does not do on demand."""

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            (Fault.ERROR, "500 'rpc error making call: EOF'"),
            (Fault.BUSY, "429 "),
            (Fault.DROP, "connection closed before the answer was complete"),
            (Fault.JUNK, "answered 200 with something that is not Consul's"),
            (Fault.NO_INDEX, "answered 200 without a usable X-Consul-Index"),
            (Fault.HUGE, "answer is larger than"),
        ],
    )
    async def test_an_unusable_answer_is_unavailability(self, fake: FakeConsul, fault: Fault, words: str) -> None:
        """Every one says what happened, and none is taken for absence."""
        async with ConsulClient(fake.url) as client:
            await client.put("cs90/x", b"1")
            fake.fault = fault
            with pytest.raises(ConsulUnavailableError) as caught:
                await client.get("cs90/x")
        assert str(caught.value).startswith(f"Consul at {fake.url}: {words}")

    async def test_a_lost_answer_to_a_write_is_not_sent_again(self, fake: FakeConsul) -> None:
        """A second try would be told that its own first one had won; the outcome is unknown in its place."""
        async with ConsulClient(fake.url) as client:
            await client.get("cs90/x")
            fake.fault = Fault.DROP
            fake.requests.clear()
            with pytest.raises(ConsulUnavailableError):
                await client.put("cs90/x", b"1", cas=0)
            assert len(fake.requests) == 1
            fake.fault = None
            written = await client.get("cs90/x")
            assert written is not None
            assert written.value == b"1"

    async def test_a_redirect_is_not_followed(self, fake: FakeConsul) -> None:
        """The token stays with the Consul it is for."""
        fake.fault = Fault.REDIRECT
        async with ConsulClient(fake.url, token=TokenSource("secret")) as client:
            with pytest.raises(PermanentError, match="302"):
                await client.get("cs90/x")
        assert [path for _, path, _ in fake.requests] == ["/v1/kv/cs90/x"]

    async def test_a_hung_server_ends_at_our_own_deadline(self, fake: FakeConsul) -> None:
        """Nobody else ends the wait."""
        async with ConsulClient(fake.url) as client:
            await fake.freeze()
            with pytest.raises(ConsulUnavailableError, match=r"no answer within 300ms$"):
                await client.list("cs90/", block=Block(1, wait_s=0, grace_s=0.3))

    async def test_an_unknown_name_is_said_in_words(self) -> None:
        """A wrong address in the settings reads as one."""
        async with ConsulClient("http://consul.invalid:8500") as client:
            with pytest.raises(ConsulUnavailableError, match=r"^Consul at http://consul.invalid:8500: cannot resolve"):
                await client.get("cs90/x")

    async def test_a_missing_socket_is_said_in_words(self, tmp_path: Path) -> None:
        """A unix socket that is not there is unavailability, named."""
        async with ConsulClient(f"unix://{tmp_path}/consul.sock") as client:
            with pytest.raises(ConsulUnavailableError, match=r"^Consul at unix:///.*consul.sock: no such file"):
                await client.get("cs90/x")

    async def test_a_unix_socket_is_an_address(self, fake: FakeConsul, tmp_path: Path) -> None:
        """The local agent may listen on a socket file only."""
        assert fake._runner is not None
        await web.UnixSite(fake._runner, str(tmp_path / "consul.sock")).start()
        async with ConsulClient(f"unix://{tmp_path}/consul.sock") as client:
            assert await client.put("cs90/x", b"1")

    async def test_plain_http_where_tls_is_expected_is_said_in_words(self, fake: FakeConsul) -> None:
        """The wrong scheme in the settings reads as a TLS failure."""
        async with ConsulClient(fake.url.replace("http:", "https:")) as client:
            with pytest.raises(ConsulUnavailableError, match=r"^Consul at https://.*: TLS failed: "):
                await client.get("cs90/x")

    async def test_a_connection_that_ends_before_it_is_one_is_said_in_words(self) -> None:
        """A balancer before Consul whose server has just died."""

        async def hang_up(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read(64 * 1024)

        async with raw_server(hang_up) as port, ConsulClient(f"https://127.0.0.1:{port}") as client:
            with pytest.raises(ConsulUnavailableError, match=r": connection closed while it was made$"):
                await client.get("cs90/x")

    async def test_a_token_that_could_not_be_a_header_is_forbidden(self) -> None:
        """Two lines in a token file are two headers to nobody."""
        async with ConsulClient("http://127.0.0.1:9", token=TokenSource("a\nX-Other: b")) as client:
            with pytest.raises(ConsulForbiddenError, match="unprintable"):
                await client.get("cs90/x")

    async def test_a_token_file_that_never_was_is_forbidden_by_name(self, tmp_path: Path) -> None:
        """Without a token nothing is sent in its place anonymously."""
        async with ConsulClient("http://127.0.0.1:9", token=TokenSource(file=tmp_path / "token")) as client:
            with pytest.raises(ConsulForbiddenError, match=r"token file .*/token: No such file"):
                await client.get("cs90/x")


@pytest.mark.real
async def test_tls_is_verified_by_the_given_authority(tmp_path: Path) -> None:
    """With the authority that `consul tls` made, answers; without it, a refusal that says certificate."""
    for what in (["ca", "create"], ["cert", "create", "-server", "-dc", "dc1"]):
        await run(["consul", "tls", *what], timeout_s=20, cwd=tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "dc1-server-consul-0.pem", tmp_path / "dc1-server-consul-0-key.pem")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "consul-agent-ca.pem"))
    async with fake_running() as fake:
        assert fake._runner is not None
        port = free_port()
        await web.TCPSite(fake._runner, "127.0.0.1", port, ssl_context=serving).start()
        async with ConsulClient(f"https://localhost:{port}", tls=trusting) as client:
            assert await client.put("cs90/x", b"1")
        async with ConsulClient(f"https://localhost:{port}") as client:
            with pytest.raises(ConsulUnavailableError, match=r"TLS failed: .*certificate"):
                await client.get("cs90/x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:8500",
        "ftp://x",
        "http://",
        "http://u:p@x:1",
        "http://x:99999",
        "http://x/y",
        "unix://rel/x",
        "unix:///",
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    """Only the three documented forms, and no password in an address."""
    with pytest.raises(ValueError):
        parse_address(text)


def test_addresses_are_read() -> None:
    """All three forms."""
    assert parse_address("http://127.0.0.1:8500/").url == "http://127.0.0.1:8500"
    assert parse_address("https://consul.example").url == "https://consul.example"
    assert parse_address("unix:///run/consul.sock").socket_path == "/run/consul.sock"

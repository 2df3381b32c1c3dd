"""
An in-process Consul over a real socket: KV, transactions, blocking queries and key ACLs, with faults to switch on.

What it does is held to the real one by the contract suite. Services and sessions: ``consul_catalog.py``. No leaders.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.adapters.fakes.consul_catalog import FakeCatalog
from tests.adapters.fakes.consul_faults import Fault


@dataclass(frozen=True)
class Stored:
    """A key in the store."""

    value: bytes
    modify_index: int
    session: str = ""
    """Who holds it as a lock."""


class FakeConsul:
    """One server; its state survives :meth:`kill`."""

    def __init__(self, *, acl: bool = False) -> None:
        self.fault: Fault | None = None
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        """Method, path and query of every request."""
        self.catalog = FakeCatalog()
        self._tokens: dict[str, Mapping[str, str]] | None = {} if acl else None
        self._kv: dict[str, Stored] = {}
        self._graves: dict[str, int] = {}
        self._index = 10
        self._changed = asyncio.Condition()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The address for a client."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen on a free port; again on the same one after :meth:`kill`."""
        app = web.Application(client_max_size=4 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def kill(self) -> None:
        """Die with all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def freeze(self) -> None:
        """Stop answering, with connections open, as under SIGSTOP."""
        self._thawed.clear()

    async def thaw(self) -> None:
        """Go on."""
        self._thawed.set()

    async def snapshot(self) -> bytes:
        """Save the store."""
        saved = {key: [base64.b64encode(item.value).decode(), item.modify_index] for key, item in self._kv.items()}
        return json.dumps([self._index, saved]).encode()

    async def restore(self, saved: bytes) -> None:
        """Load a saved store; indexes go back and every blocked query answers."""
        self._index, items = json.loads(saved)
        self._kv = {key: Stored(base64.b64decode(value), index) for key, (value, index) in items.items()}
        self._graves.clear()
        await self._wake()

    async def grant(self, rules: Mapping[str, str]) -> str:
        """Make a token; *rules*: key, prefix with a final ``/``, or ``service NAME``, to ``read`` or ``write``."""
        assert self._tokens is not None
        token = str(uuid.uuid4())
        self._tokens[token] = dict(rules)
        return token

    async def revoke(self, token: str) -> None:
        """Delete a token."""
        assert self._tokens is not None
        del self._tokens[token]

    # HTTP

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, dict(request.query)))
        await self._thawed.wait()
        match self.fault:
            case Fault.ERROR:
                return web.Response(status=500, text="rpc error making call: EOF")
            case Fault.BUSY:
                return web.Response(status=429, text="Your IP is issuing too many concurrent connections")
            case Fault.HANG:
                await asyncio.sleep(60)
            case Fault.JUNK:
                return web.Response(text="<html>It works!</html>", headers={"X-Consul-Index": "7"})
            case Fault.REDIRECT:
                raise web.HTTPFound(f"{self.url}/elsewhere")
            case Fault.HUGE:
                return web.Response(body=b" " * (9 * 1024 * 1024), headers={"X-Consul-Index": "7"})
        response = await self._answer(request)
        if self.fault is Fault.DROP:
            assert request.transport is not None
            request.transport.close()
        about_health = self.fault is Fault.FILTERED_HEALTH and request.path.startswith("/v1/health/")
        if self.fault is Fault.FILTERED or about_health:
            response.headers["X-Consul-Results-Filtered-By-ACLs"] = "true"
        if self.fault is Fault.NO_INDEX:
            response.headers.pop("X-Consul-Index", None)
        return response

    async def _answer(self, request: web.Request) -> web.Response:
        token = request.headers.get("X-Consul-Token", "")
        if self._tokens is not None and token and token not in self._tokens:
            return web.Response(status=403, text="ACL not found")
        body = await request.read()
        if request.path == "/v1/txn":
            return await self._txn(json.loads(body), token)
        if request.path.startswith("/v1/session/destroy/"):
            return await self._destroy(request.path.rpartition("/")[2])
        if not request.path.startswith("/v1/kv/"):
            return self.catalog.answer(request, body, lambda name: self._may_see(token, name), self._index)
        key = request.path.removeprefix("/v1/kv/")
        match request.method:
            case "GET":
                return await self._get(key, request.query, token)
            case _ if not self._may(token, key, "write"):
                return web.Response(status=403, text="Permission denied")
            case "PUT":
                op = {"Verb": "cas" if "cas" in request.query else "set", "Value": base64.b64encode(body).decode()}
            case _:
                op = {"Verb": "delete-cas" if "cas" in request.query else "delete"}
        op |= {"Key": key, "Index": request.query.get("cas", "0")}
        done = not self._why_not(op)
        if done:
            self._do(op, self._index + 1)
            await self._wake()
        return web.json_response(done)

    def _may(self, token: str, key: str, right: str) -> bool:
        if self._tokens is None:
            return True
        rules = self._tokens.get(token, {})
        given = {rules[rule] for rule in rules if key == rule or (rule.endswith("/") and key.startswith(rule))}
        return "write" in given or right in given

    def _may_see(self, token: str, service: str) -> bool:
        return self._tokens is None or f"service {service}" in self._tokens.get(token, {})

    async def _destroy(self, session: str) -> web.Response:
        self.catalog.sessions.discard(session)
        for key, item in self._kv.items():
            if item.session == session:
                self._index += 1
                self._kv[key] = Stored(item.value, self._index)
        await self._wake()
        return web.json_response(True)

    async def _get(self, key: str, query: Mapping[str, str], token: str) -> web.Response:
        recurse = "recurse" in query
        if not recurse and not self._may(token, key, "read"):
            return web.Response(status=403, text="Permission denied")
        asked = int(query.get("index", "0"))
        wait_s = float(query.get("wait", "0ms").removesuffix("ms")) / 1000
        if asked:
            async with self._changed:
                try:
                    async with asyncio.timeout(wait_s):
                        generation = self._changed
                        await generation.wait_for(
                            lambda: self._index_of(key, recurse=recurse) > asked or self._restored(asked)
                        )
                except TimeoutError:
                    pass
        found = [
            {
                "Key": name,
                "Value": base64.b64encode(item.value).decode() or None,
                "ModifyIndex": item.modify_index,
                **({"Session": item.session} if item.session else {}),
            }
            for name, item in sorted(self._kv.items())
            if (name.startswith(key) if recurse else name == key)
            and self._may(token, name, "read")
            and not (recurse and self.fault is Fault.HIDE)
        ]
        headers = {"X-Consul-Index": str(self._index_of(key, recurse=recurse))}
        return web.json_response(found, headers=headers) if found else web.Response(status=404, headers=headers)

    def _restored(self, asked: int) -> bool:
        return asked > self._index

    def _index_of(self, key: str, *, recurse: bool) -> int:
        # A missing key has the index of the whole store, so writes beside it wake its watchers.
        indexes = [
            item.modify_index for name, item in self._kv.items() if (name.startswith(key) if recurse else name == key)
        ]
        indexes += [index for name, index in self._graves.items() if recurse and name.startswith(key)]
        return max(indexes, default=self._index)

    async def _txn(self, ops: list[dict[str, Any]], token: str) -> web.Response:
        kvs = [op["KV"] for op in ops]
        read = {"get", "check-index", "check-not-exists", "check-session"}
        for at, kv in enumerate(kvs):
            if not self._may(token, kv["Key"], "read" if kv["Verb"] in read else "write"):
                return web.json_response({"Errors": [{"OpIndex": at, "What": "Permission denied"}]}, status=409)
        before = (dict(self._kv), dict(self._graves))
        index, results = self._index + 1, []
        for at, kv in enumerate(kvs):
            if why := self._why_not(kv):
                self._kv, self._graves = before
                return web.json_response({"Results": None, "Errors": [{"OpIndex": at, "What": why}]}, status=409)
            self._do(kv, index)
            if (item := self._kv.get(kv["Key"])) and not kv["Verb"].startswith("check"):
                value = base64.b64encode(item.value).decode() if kv["Verb"] == "get" else None
                results.append({"KV": {"Key": kv["Key"], "Value": value, "ModifyIndex": item.modify_index}})
        await self._wake()
        return web.json_response({"Results": results, "Errors": None})

    # The store

    def _why_not(self, kv: Mapping[str, Any]) -> str:
        item = self._kv.get(kv["Key"])
        index = item.modify_index if item else 0
        match kv["Verb"]:
            case "cas" | "delete-cas" if index != int(kv["Index"]):
                return f"failed to {kv['Verb']} key {kv['Key']!r}, index is stale"
            case "check-index" if item is None or index != int(kv["Index"]):
                return f"current modify index {index}"
            case "check-not-exists" if item is not None:
                return f"key {kv['Key']!r} exists"
            case "lock" if kv["Session"] not in self.catalog.sessions:
                return f"invalid session {kv['Session']!r}"
            case "lock" if item is not None and item.session not in {"", kv["Session"]}:
                return f"failed to lock key {kv['Key']!r}, lock is already held"
            case "check-session" if item is None or item.session != kv["Session"]:
                return f"failed session check for key {kv['Key']!r}"
            case "get" if item is None:
                return f"key {kv['Key']!r} doesn't exist"
        return ""

    def _do(self, kv: Mapping[str, Any], index: int) -> None:
        key, item = kv["Key"], self._kv.get(kv["Key"])
        match kv["Verb"]:
            case "set" | "cas":
                value = base64.b64decode(kv["Value"])
                if item is not None and item.value == value:
                    return
                self._kv[key] = Stored(value, index, item.session if item else "")
                self._graves.pop(key, None)
            case "lock":
                self._kv[key] = Stored(base64.b64decode(kv["Value"]), index, kv["Session"])
            case "delete" | "delete-cas" if item is not None:
                del self._kv[key]
                self._graves[key] = index
            case "delete-tree" if under := [name for name in self._kv if name.startswith(key)]:
                for name in under:
                    del self._kv[name]
                    self._graves[name] = index
            case _:
                return
        self._index = index

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def running(*, acl: bool = False) -> AsyncIterator[FakeConsul]:
    """Run a fake until the block ends."""
    fake = FakeConsul(acl=acl)
    await fake.start()
    try:
        yield fake
    finally:
        await fake.thaw()
        await fake.kill()

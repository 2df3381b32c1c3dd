"""
Consul's key/value store: typed reads, guarded writes and transactions, over one local agent.

Thin: no retries, no caching, no watching (:mod:`agent.adapters.consul.watch`). A write that raises
``ConsulUnavailableError`` may have happened: re-read and compare.
"""

import ssl
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter

from agent.adapters.consul.transport import DEADLINE_S, Request, Sender, TokenSource, Transport
from agent.adapters.consul.wire import WRITE_MAX_BYTES, Entry, Op, TxnResult, decode, encode_txn, read_index, read_txn
from agent.core.model.errors import PermanentError
from agent.core.model.keys import KeyValue, check_key

_FOUND_OR_NOT = frozenset({HTTPStatus.OK, HTTPStatus.NOT_FOUND})
_DONE_OR_NOT = frozenset({HTTPStatus.OK, HTTPStatus.CONFLICT})


class Consistency(StrEnum):
    """Consul's read modes; ``STALE`` costs up to 100 ms of age and is not offered."""

    DEFAULT = "default"
    CONSISTENT = "consistent"
    """One more quorum round trip: for the re-read just before a decision."""


@dataclass(frozen=True, slots=True)
class Block:
    """Wait for a change: answer once the index has passed *index*, at the latest after about *wait_s*."""

    index: int
    """At least 1."""
    wait_s: float
    grace_s: float = 11.0
    """Time for the answer beyond the wait and Consul's own jitter of wait/16."""

    @property
    def deadline_s(self) -> float:
        """The read timeout: the only guard against an agent that hangs."""
        return self.wait_s * 17 / 16 + self.grace_s

    @property
    def query(self) -> dict[str, str]:
        """The parameters of a blocking read."""
        return {"index": str(max(1, self.index)), "wait": f"{round(self.wait_s * 1000)}ms"}


@dataclass(frozen=True, slots=True)
class Listing:
    """What a read returned; no entries means 404, which a token without the right to read gets as well."""

    entries: tuple[KeyValue, ...]
    index: int
    is_filtered: bool = False
    """Consul (1.11 on) said that it left out what the token may not read."""


_ENTRIES = TypeAdapter(list[Entry])
_WRITTEN = TypeAdapter(bool)


class ConsulClient:
    """A client of the local Consul agent. Use as an async context manager, or :meth:`close` it."""

    def __init__(self, address: str, *, token: TokenSource | None = None, tls: ssl.SSLContext | None = None) -> None:
        """
        Connect lazily, at the first request.

        Raises:
            ValueError: *address* is not ``http://``, ``https://`` or ``unix:///path``.
        """
        self.http: Sender = Transport(address, token or TokenSource(), tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def name(self) -> str:
        """How messages call this Consul: ``Consul at http://127.0.0.1:8500``."""
        return self.http.name

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        await self.http.close()

    async def get(self, key: str, *, consistency: Consistency = Consistency.DEFAULT) -> KeyValue | None:
        """
        Read one key; None when it does not exist.

        Raises:
            ConsulForbiddenError: the token may not read it.
            ConsulUnavailableError: no usable answer.
        """
        listing = await self._read(key, {}, None, consistency)
        return listing.entries[0] if listing.entries else None

    async def get_blocking(self, key: str, block: Block) -> Listing:
        """Read one key once it changed; otherwise as :meth:`list`."""
        return await self._read(key, {}, block, Consistency.DEFAULT)

    async def list(
        self, prefix: str, *, block: Block | None = None, consistency: Consistency = Consistency.DEFAULT
    ) -> Listing:
        """
        Read everything under *prefix*, atomically.

        Without permission this looks empty, not forbidden: confirm by :meth:`get` of a single key.

        Raises:
            ConsulForbiddenError: the token is not known.
            ConsulUnavailableError: no usable answer, or one without a usable index.
        """
        return await self._read(prefix, {"recurse": ""}, block, consistency)

    async def put(self, key: str, value: bytes, *, cas: int | None = None) -> bool:
        """
        Write a key; an equal value wakes nobody and keeps its index.

        With *cas* only if the key's ModifyIndex is this number; 0 means only if there is no such key.

        Returns: whether it was written; False only with *cas*.

        Raises:
            PermanentError: the value is over 512 KiB.
            ConsulForbiddenError: the token may not write it.
            ConsulUnavailableError: no usable answer; whether it was written is unknown.
        """
        if len(value) > WRITE_MAX_BYTES:
            raise PermanentError(f"value of {key} is {len(value)} bytes, Consul takes {WRITE_MAX_BYTES}")
        params = {} if cas is None else {"cas": str(cas)}
        reply = await self.http.send(Request("PUT", f"/v1/kv/{check_key(key)}", params, value))
        return decode(self.name, _WRITTEN, reply)

    async def delete(self, key: str, *, cas: int | None = None) -> bool:
        """Delete a key; True also when there was none. With *cas* (> 0) as in :meth:`put`."""
        params = {} if cas is None else {"cas": str(cas)}
        reply = await self.http.send(Request("DELETE", f"/v1/kv/{check_key(key)}", params))
        return decode(self.name, _WRITTEN, reply)

    async def txn(self, *ops: Op) -> TxnResult:
        """
        Do all of *ops* or none, atomically.

        Raises:
            PermanentError: over 64 operations or 512 KiB; Consul's oldest supported version takes no more.
            ConsulForbiddenError: the token is not known (a missing right is :class:`TxnDenied`).
            ConsulUnavailableError: no usable answer; the outcome is unknown.
        """
        request = Request("PUT", "/v1/txn", body=encode_txn(ops), accept=_DONE_OR_NOT)
        reply = await self.http.send(request)
        return read_txn(self.name, reply)

    async def _read(self, key: str, params: dict[str, str], block: Block | None, mode: Consistency) -> Listing:
        query = dict(params)
        if mode is Consistency.CONSISTENT:
            query["consistent"] = ""
        if block is not None:
            query |= block.query
        deadline_s = block.deadline_s if block else DEADLINE_S
        path = f"/v1/kv/{check_key(key)}"
        reply = await self.http.send(Request("GET", path, query, accept=_FOUND_OR_NOT, deadline_s=deadline_s))
        index = read_index(self.name, reply)
        filtered = reply.headers.get("X-Consul-Results-Filtered-By-ACLs", "").lower() == "true"
        if reply.status == HTTPStatus.NOT_FOUND:
            return Listing((), index, filtered)
        entries = decode(self.name, _ENTRIES, reply)
        return Listing(tuple(entry.as_key_value() for entry in entries), index, filtered)

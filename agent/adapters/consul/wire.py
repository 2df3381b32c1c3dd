"""Consul's JSON: keys, transactions and indexes, both ways; no I/O."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from pydantic import Base64Bytes, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from agent.adapters.consul.transport import Reply
from agent.core.model.errors import ConsulUnavailableError, PermanentError
from agent.core.model.keys import KeyValue, check_key

T = TypeVar("T")

TXN_MAX_OPS = 64
"""Before Consul 1.14; later versions allow 128."""
WRITE_MAX_BYTES = 512 * 1024
"""Consul's limit of a value and of a transaction's whole body."""


class Verb(StrEnum):
    """KV verbs of a transaction; the fields of :class:`Op` each one uses."""

    SET = "set"  # value
    CAS = "cas"  # value, index; index 0 creates
    LOCK = "lock"  # value, session
    UNLOCK = "unlock"  # value, session
    GET = "get"
    CHECK_INDEX = "check-index"  # index; fails on a missing key, also with 0
    CHECK_SESSION = "check-session"  # session
    CHECK_NOT_EXISTS = "check-not-exists"
    DELETE = "delete"
    DELETE_TREE = "delete-tree"
    DELETE_CAS = "delete-cas"  # index


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a transaction."""

    verb: Verb
    key: str
    value: bytes = b""
    index: int = 0
    session: str = ""

    def wire(self) -> dict[str, Any]:
        """Return Consul's form."""
        kv: dict[str, Any] = {"Verb": self.verb, "Key": check_key(self.key)}
        if self.verb in {Verb.SET, Verb.CAS, Verb.LOCK, Verb.UNLOCK}:
            kv["Value"] = base64.b64encode(self.value).decode()
        if self.verb in {Verb.CAS, Verb.CHECK_INDEX, Verb.DELETE_CAS}:
            kv["Index"] = self.index
        if self.verb in {Verb.LOCK, Verb.UNLOCK, Verb.CHECK_SESSION}:
            kv["Session"] = self.session
        return {"KV": kv}


@dataclass(frozen=True, slots=True)
class TxnDone:
    """All operations happened, at once."""

    results: tuple[KeyValue, ...]
    """The keys written or read, in order, with their new indexes; values only of ``get``."""


@dataclass(frozen=True, slots=True)
class TxnConflict:
    """Nothing happened: a guard did not hold. Also the answer to a repeat of one's own lost success."""

    op_index: int
    what: str
    """Consul's words; for people, never to be matched."""


@dataclass(frozen=True, slots=True)
class TxnDenied:
    """Nothing happened: the token lacks a right."""

    op_index: int
    what: str


TxnResult = TxnDone | TxnConflict | TxnDenied


class Entry(BaseModel):
    """A key in Consul's JSON."""

    key: str = Field(alias="Key")
    value: Annotated[Base64Bytes, BeforeValidator(lambda value: value or b"")] = Field(alias="Value")
    modify_index: int = Field(alias="ModifyIndex", ge=1)
    session: str = Field(alias="Session", default="")

    def as_key_value(self) -> KeyValue:
        """Return the core's form."""
        return KeyValue(self.key, self.value, self.modify_index, self.session)


class _TxnEntry(BaseModel):
    kv: Entry = Field(alias="KV")


class _TxnError(BaseModel):
    op_index: int = Field(alias="OpIndex")
    what: str = Field(alias="What")


class _TxnReply(BaseModel):
    results: list[_TxnEntry] | None = Field(alias="Results", default=None)
    errors: list[_TxnError] | None = Field(alias="Errors", default=None)


_TXN_REPLY = TypeAdapter(_TxnReply)


def encode_txn(ops: Sequence[Op]) -> bytes:
    """
    Write a transaction's body.

    Raises:
        PermanentError: over 64 operations or 512 KiB; the oldest supported Consul takes no more.
    """
    body = json.dumps([op.wire() for op in ops]).encode()
    if not 1 <= len(ops) <= TXN_MAX_OPS or len(body) > WRITE_MAX_BYTES:
        size = f"{len(ops)} operations in {len(body)} bytes"
        raise PermanentError(f"transaction of {size}: Consul takes 1 to {TXN_MAX_OPS} in {WRITE_MAX_BYTES}")
    return body


def read_txn(name: str, reply: Reply) -> TxnResult:
    """Read the answer (200 or 409) to a transaction."""
    answer = decode(name, _TXN_REPLY, reply)
    if reply.status == HTTPStatus.OK:
        return TxnDone(tuple(entry.kv.as_key_value() for entry in answer.results or ()))
    if not answer.errors:
        raise ConsulUnavailableError(f"{name}: refused a transaction without saying why")
    # A missing right comes as 409 as well, told apart by this text alone (1.8 to 1.22).
    denied = next((error for error in answer.errors if "Permission denied" in error.what), None)
    if denied is not None:
        return TxnDenied(denied.op_index, denied.what)
    return TxnConflict(answer.errors[0].op_index, answer.errors[0].what)


def read_index(name: str, reply: Reply) -> int:
    """
    Return the index a read's answer carries. Other headers are not asked for: newer versions leave some out.

    Raises:
        ConsulUnavailableError: it is missing or no number; some proxy answered in Consul's place.
    """
    text = reply.headers.get("X-Consul-Index", "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ConsulUnavailableError(f"{name}: answered {reply.status} without a usable X-Consul-Index")
    return int(text)


def decode(name: str, shape: TypeAdapter[T], reply: Reply) -> T:
    """
    Read an answer's JSON.

    Raises:
        ConsulUnavailableError: it is not of the expected shape.
    """
    try:
        return shape.validate_json(reply.body)
    except ValidationError as exc:
        raise ConsulUnavailableError(f"{name}: answered {reply.status} with something that is not Consul's") from exc

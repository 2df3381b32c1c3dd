"""
Names and identifiers: what may be written in a key, on a socket, in a log line, and nothing else.

Everything that comes from outside passes through one of the ``parse_*`` functions before it reaches
Consul, HAProxy or Docker; what they return is safe in all of those places.
"""

import re
from enum import StrEnum
from typing import NewType

AppName = NewType("AppName", str)
"""Name of an app and its Consul key prefix: ``[a-z0-9-]+``, not ending in ``-status``."""

NodeName = NewType("NodeName", str)
"""Name of a host in Consul keys and reports: ``[A-Za-z0-9._-]+``, at most 128 characters."""

ImageReference = NewType("ImageReference", str)
"""What an operator writes to name an image: ``[registry/]name[:tag][@sha256:...]``."""

Digest = NewType("Digest", str)
"""``sha256:`` and 64 hex digits: of the top manifest the registry names, else the image id."""

ReleaseId = NewType("ReleaseId", str)
"""12 hex digits: content hash of digest and spec."""

Pin = NewType("Pin", str)
"""12 hex digits that a visitor's cookie carries: hash of release and generation."""

ContainerId = NewType("ContainerId", str)
"""Docker's own 64 hex digits."""


class SlotName(StrEnum):
    """The two fixed server slots every app has in HAProxy."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> "SlotName":
        """The slot beside this one."""
        return SlotName.GREEN if self is SlotName.BLUE else SlotName.BLUE


_APP = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_NODE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,127})")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# The grammar of github.com/distribution/reference, whole and bounded.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_PART = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*(?::[0-9]{{1,5}})?"
_REFERENCE = re.compile(
    rf"(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*"
    rf"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?",
)
REFERENCE_MAX_CHARS = 512


def parse_app(text: str) -> AppName:
    """
    Check an app name.

    Raises:
        ValueError: not ``[a-z0-9-]+`` (1 to 64 characters, no dash at either end), or ends in ``-status``.
    """
    if not _APP.fullmatch(text):
        msg = f"app name {printable(text)} must be 1 to 64 of a-z, 0-9 and '-', with no '-' at either end"
        raise ValueError(msg)
    if text.endswith("-status"):
        msg = f"app name {printable(text)} must not end in '-status': that root holds the reports of agents"
        raise ValueError(msg)
    return AppName(text)


def parse_node(text: str) -> NodeName:
    """
    Check a node name.

    Raises:
        ValueError: empty, longer than 128 characters, or with anything but letters, digits, '.', '_', '-'.
    """
    if not _NODE.fullmatch(text):
        msg = f"node name {printable(text)} must be 1 to 128 letters, digits, '.', '_' or '-'"
        raise ValueError(msg)
    return NodeName(text)


def unambiguous_reference(reference: ImageReference) -> str:
    """Return as much of *reference* as a person needs: a digest is left out beside a tag, else cut to 12 digits."""
    name, _, digest = reference.partition("@")
    return name if ":" in name.rpartition("/")[2] or not digest else f"{name}@{digest[:19]}"


def parse_reference(text: str) -> ImageReference:
    """
    Check an image reference by Docker's grammar.

    Raises:
        ValueError: empty, longer than 512 characters, or outside the grammar (spaces, ';', newlines, ...).
    """
    if not text:
        raise ValueError("image reference is empty")
    if len(text) > REFERENCE_MAX_CHARS:
        msg = f"image reference is {len(text)} characters long, at most {REFERENCE_MAX_CHARS} are allowed"
        raise ValueError(msg)
    if not _REFERENCE.fullmatch(text):
        msg = f"{printable(text)} is no image reference like registry/name:tag or name@sha256:..."
        raise ValueError(msg)
    return ImageReference(text)


def parse_digest(text: str) -> Digest:
    """
    Check a digest.

    Raises:
        ValueError: not ``sha256:`` and 64 hex digits.
    """
    if not _DIGEST.fullmatch(text):
        msg = f"{printable(text)} is no digest of the form sha256:<64 hex digits>"
        raise ValueError(msg)
    return Digest(text)


def printable(text: str, limit: int = 80) -> str:
    """Quote untrusted text for a message: control characters escaped, markup harmless, cut at *limit*."""
    shown = text[:limit].encode("unicode_escape").decode("ascii").replace("<", "\\x3c").replace(">", "\\x3e")
    return f"'{shown}{'...' if len(text) > limit else ''}'"

"""A release (image digest + spec) and the pin by which a visitor's cookie names it."""

import hashlib
from dataclasses import dataclass

from agent.core.model.names import Digest, ImageReference, Pin, ReleaseId
from agent.core.model.spec import RunSpec, release_id


def pin_of(release: ReleaseId, generation: int) -> Pin:
    """
    Return the cookie's name of a release: 12 hex digits of sha256 over release and generation.

    The generation makes a second attempt with the same release another pin: holders of a release that
    was taken back do not get in again before it is activated (design.md, section 3).
    """
    return Pin(hashlib.sha256(f"{release}.{generation}".encode()).hexdigest()[:12])


@dataclass(frozen=True, slots=True)
class Release:
    """One thing that can be served: what runs, how, and under which generation it was staged."""

    reference: ImageReference
    digest: Digest
    spec: RunSpec
    generation: int

    @property
    def id(self) -> ReleaseId:
        """The content hash that names the release."""
        return release_id(self.digest, self.spec)

    @property
    def pin(self) -> Pin:
        """What a visitor's cookie carries."""
        return pin_of(self.id, self.generation)

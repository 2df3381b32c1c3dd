"""The registry that coordinators ask what an image means."""

import asyncio
import random
from dataclasses import dataclass

from agent.core.model.errors import PermanentError, TransientError
from agent.core.model.names import Digest, ImageReference
from tests.sim.host.docker_model import behaviour_of, digest_of


@dataclass(slots=True)
class SimRegistry:
    """Answers as an image's name says."""

    rng: random.Random

    async def digest(self, image: ImageReference) -> Digest:
        """Return the digest of *image*; errors as the registry's client."""
        await asyncio.sleep(self.rng.uniform(0.02, 0.5))
        match behaviour_of(image):
            case "missing":
                raise PermanentError("manifest unknown")
            case "quiet":
                raise TransientError("registry does not answer")
            case _:
                return digest_of(image)

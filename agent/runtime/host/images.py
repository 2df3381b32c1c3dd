"""What jobs do with images: pull and note whether it is new, have what a release needs, remove what is too old."""

from dataclasses import dataclass

from agent.adapters.docker.inspect import Image
from agent.adapters.docker.pull import PullProgress
from agent.adapters.registry.reference import pinned
from agent.core.model.names import Digest, ImageReference
from agent.runtime.host.ports import DockerPort


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought."""

    digest: Digest
    is_new: bool
    """Whether the image was not on the host before, for whatever purpose."""


async def pull_image(docker: DockerPort, reference: ImageReference, progress: PullProgress, stall_s: float) -> Pulled:
    """Pull an image; errors as the adapter's."""
    before = {image.id for image in await docker.images()}
    digest = await docker.pull(reference, progress, stall_s)
    found = [image for image in await docker.images() if _is(image, digest)]
    return Pulled(digest, is_new=bool(found) and all(image.id not in before for image in found))


async def ensure_image(docker: DockerPort, reference: ImageReference, digest: Digest, stall_s: float) -> None:
    """Pull by digest an image that was removed since it was resolved."""
    by_digest = pinned(reference, digest)
    for name in (by_digest, reference):
        if await docker.local_digest(name) == digest:
            return
    await docker.pull(by_digest, PullProgress(), stall_s)


async def prune_image(docker: DockerPort, reference: ImageReference, digest: Digest) -> None:
    """
    Take our names off an image; Docker removes it with its last name, so another tool's name keeps it.

    Raises:
        DockerRefusedError: a container uses it.
    """
    own = {str(reference), str(pinned(reference, digest)), f"{str(reference).rpartition(':')[0]}@{digest}"}
    for image in await docker.images():
        if _is(image, digest):
            # An image that has lost all its names is removed by its id; one that has others' only is theirs.
            for name in [name for name in image.references if name in own] if image.references else [str(image.id)]:
                await docker.remove_image(name)


def _is(image: Image, digest: Digest) -> bool:
    """Whether an image is the one that *digest* names; a repository's digest stands among its references."""
    return image.id == digest or any(name.endswith(f"@{digest}") for name in image.references)

"""What an image reference says about repository and registry, by Docker's own rules of shortening."""

from dataclasses import dataclass

from agent.core.model.names import Digest, ImageReference, parse_digest

DOCKER_HUB = "docker.io"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a registry, in full: ``nginx`` is ``docker.io`` and ``library/nginx``."""

    registry: str
    path: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.path}"


def repository(reference: str) -> Repository:
    """Return the repository that *reference* (or a RepoDigests entry) names, tag and digest left out."""
    name = reference.partition("@")[0]
    head, slash, rest = name.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head != head.lower()):
        registry, path = head, rest
    else:
        registry, path = DOCKER_HUB, name
    path = path.partition(":")[0]
    if registry in (DOCKER_HUB, f"index.{DOCKER_HUB}"):
        return Repository(DOCKER_HUB, path if "/" in path else f"library/{path}")
    return Repository(registry, path)


def pinned_digest(reference: ImageReference) -> Digest | None:
    """Return the digest *reference* is pinned by, if it is."""
    digest = reference.partition("@")[2]
    return parse_digest(digest) if digest else None


def pull_name(reference: ImageReference) -> str:
    """Return *reference* in full, with its digest or else its tag (``latest`` where it has neither)."""
    full = repository(reference)
    if digest := pinned_digest(reference):
        return f"{full}@{digest}"
    tag = reference.rpartition("/")[2].partition(":")[2]
    return f"{full}:{tag or 'latest'}"


def matching_digests(reference: ImageReference, repo_digests: tuple[str, ...]) -> tuple[Digest, ...]:
    """Return the digests in Docker's RepoDigests that belong to the repository of *reference*, sorted."""
    wanted = repository(reference)
    found = {entry.partition("@")[2] for entry in repo_digests if repository(entry) == wanted}
    return tuple(sorted(parse_digest(digest) for digest in found))


def pinned(reference: ImageReference, digest: Digest) -> ImageReference:
    """Return *reference* with *digest* in place of its tag: what it meant when it was resolved."""
    return ImageReference(f"{repository(reference)}@{digest}")

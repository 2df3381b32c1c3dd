"""
What a token may not see: the one place that asks whether an empty or short list is a forbidden one.

A recursive read, or a look at the catalog, without permission is no error: Consul leaves out what it may not show. It
says so from 1.11 on (``X-Consul-Results-Filtered-By-ACLs``); before that an empty list proves nothing, and a GET of a
single key does: 403 where the right is missing.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.adapters.consul.kv import Block, Consistency, ConsulClient, Listing
from agent.adapters.consul.services import Instances, health_service
from agent.core.model.errors import ConsulForbiddenError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """What Consul showed, and why that may not be all."""

    found: T
    problem: str = ""
    """Empty where nothing was left out."""

    def whole(self) -> T:
        """
        Return what was found.

        Raises:
            ConsulForbiddenError: something may be missing.
        """
        if self.problem:
            raise ConsulForbiddenError(self.problem)
        return self.found


async def list_keys(
    client: ConsulClient, prefix: str, consistency: Consistency = Consistency.DEFAULT, *, block: Block | None = None
) -> Seen[Listing]:
    """
    List all keys under *prefix*.

    Raises:
        ConsulUnavailableError: no usable answer.
    """
    listing = await client.list(prefix, consistency=consistency, block=block)
    problem = f"{client.name}: the token may not read all keys under {prefix}"
    if listing.is_filtered:
        return Seen(listing, problem)
    if not listing.entries:
        try:
            await client.get(prefix, consistency=consistency)
        except ConsulForbiddenError as exc:
            return Seen(listing, f"{problem}: {exc}")
    return Seen(listing)


async def list_instances(
    client: ConsulClient,
    service: str,
    consistency: Consistency = Consistency.DEFAULT,
    *,
    block: Block | None = None,
    may_be_empty: bool = False,
) -> Seen[Instances]:
    """
    List all instances of a service, alive or not.

    Args:
        client: whose token must have the rights.
        service: its name.
        consistency: of the read; not with *block*.
        block: answer once something of the service changed.
        may_be_empty: given by who looks for its own registration in the list, and so sees what an empty one means.

    Raises:
        ConsulUnavailableError: no usable answer.
    """
    hidden = f"{client.name}: the token may not read all of {service}"
    try:
        found = await health_service(client, service, consistency=consistency, block=block)
    except ConsulForbiddenError as exc:
        return Seen(Instances((), 0, is_filtered=True), f"{hidden}: {exc}")
    if found.is_filtered:
        return Seen(found, hidden)
    if not (found.instances or may_be_empty):
        # Consul has no way to tell the two apart.
        what = f"{client.name} shows no {service}"
        return Seen(found, f"{what}: none is registered, or the token may not read services and nodes")
    return Seen(found)

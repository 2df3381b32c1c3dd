"""Reading one rollout for ``tidegate show``: its entries and the hosts of its barrier."""

from agent.adapters.consul.history import Rollout, read_history, read_rollout
from agent.adapters.consul.kv import ConsulClient
from agent.cli.connect import open_session
from agent.cli.options import ConsulOptions
from agent.core.model import keys
from agent.core.model.errors import PermanentError
from agent.core.model.names import AppName


async def read(consul_options: ConsulOptions, word: str | None) -> tuple[Rollout, tuple[str, ...]]:
    """
    Read the rollout *word* names, by default the last one, and its members.

    Raises:
        PermanentError: there is none of that number, or the word is no number.
    """
    async with open_session(consul_options) as session:
        found = await _find(session.client, session.app, word)
        return found, await _members(session.client, session.app, found.generation)


async def _find(client: ConsulClient, app: AppName, word: str | None) -> Rollout:
    if word is None:
        rollouts = await read_history(client, app)
        if not rollouts:
            raise PermanentError(f"no rollout of {app} is recorded")
        return rollouts[-1]
    number = word.removeprefix("#")
    if not number.isdecimal():
        raise PermanentError(f"{word!r} is no number of a rollout: `tidegate history` lists them")
    found = await read_rollout(client, app, int(number))
    if found is None:
        raise PermanentError(f"the history of {app} has no rollout {number}: `tidegate history` lists them")
    return found


async def _members(client: ConsulClient, app: AppName, generation: int) -> tuple[str, ...]:
    entry = await client.get(keys.members(app, generation))
    if entry is None:
        return ()
    from agent.adapters.consul.fleet import members_of

    return tuple(members_of(entry))

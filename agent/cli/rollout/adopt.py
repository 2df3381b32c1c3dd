"""``tidegate adopt``: accept a state of Consul that went back; the record and the reports may be unreadable."""

import time
from dataclasses import dataclass

import typer

from agent.adapters.consul.fleet import read_keys
from agent.adapters.consul.kv import Consistency, ConsulClient
from agent.adapters.consul.visibility import list_keys
from agent.cli.connect import Session, open_session
from agent.cli.options import ConsulOptions
from agent.cli.rollout.submit import submit
from agent.core.model.errors import TransientError
from agent.core.model.keys import KeySnapshot, index_of, node_reports
from agent.core.model.names import AppName
from agent.core.rollout.adopt import adopt as accept
from agent.core.rollout.change import Change, Indexes
from agent.core.rollout.commands import CommandAuthor


@dataclass(frozen=True, slots=True)
class StoredTexts:
    """What Consul holds now, as text where it may be of any version."""

    keys: KeySnapshot
    reports: tuple[str, ...]

    @property
    def indexes(self) -> Indexes:
        """ModifyIndexes for the guards of the write."""
        return Indexes(record=index_of(self.keys.rollout), active=index_of(self.keys.active))


async def adopt(consul_options: ConsulOptions, *, reason: str, yes: bool) -> None:
    """
    Show what would be adopted, ask, and write it.

    Raises:
        PermanentError: nothing to adopt, or the token may not.
        TransientError: the keys changed meanwhile.
    """
    async with open_session(consul_options) as session:
        by = CommandAuthor(session.author, reason, time.time())
        shown = await read_texts(session.client, session.app)
        change = accept(shown.keys, shown.reports, by)
        active = change.stage.image if change.stage else ""
        typer.echo(
            f"adopts {active} as generation {change.record.generation} for {len(shown.reports)} reporting host(s)"
        )
        if not yes and not typer.confirm("Shall every host follow the keys as they are now?"):
            raise typer.Abort
        await _write(session, shown, by)
    typer.echo("adopted: the hosts follow active/image again")


async def _write(session: Session, shown: StoredTexts, by: CommandAuthor) -> None:
    def command(found: StoredTexts) -> Change:
        if found.indexes != shown.indexes:
            raise TransientError("the keys changed meanwhile; check them with `tidegate status`, then adopt again")
        return accept(found.keys, found.reports, by)

    await submit(session, read_texts, command, by)


async def read_texts(client: ConsulClient, app: AppName) -> StoredTexts:
    """
    Read the keys and every report.

    Raises:
        ConsulForbiddenError: the token may not read every report.
    """
    keys = await read_keys(client, app)
    # A report that is not seen may hold the highest generation: hosts would refuse what is written below it.
    listing = (await list_keys(client, node_reports(app), Consistency.CONSISTENT)).whole()
    return StoredTexts(keys, tuple(entry.value.decode(errors="replace") for entry in listing.entries))

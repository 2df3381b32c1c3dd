"""``tidegate adopt``: accept a state of Consul that went back, in one guarded transaction."""

from datetime import UTC, datetime

import typer

from agent.adapters.consul.fleet import read_keys
from agent.adapters.consul.kv import Consistency, ConsulClient
from agent.adapters.consul.wire import Op, TxnConflict, TxnDenied, TxnDone, Verb
from agent.cli.connect import open_session
from agent.cli.options import Access
from agent.core.model.errors import PermanentError, TransientError
from agent.core.model.keys import KeySnapshot, Present, active_image, history, node_reports, rollout, stage_image
from agent.core.model.names import AppName
from agent.core.rollout.adopt import Adoption
from agent.core.rollout.adopt import adopt as write_up


async def adopt(access: Access, *, reason: str, yes: bool) -> None:
    """
    Show what would be adopted, ask, and write it.

    Raises:
        PermanentError: nothing to adopt, or the token may not.
        TransientError: the keys changed meanwhile.
    """
    async with open_session(access) as session:
        consul, app = session.client, session.app
        snapshot = await read_keys(consul, app)
        listing = await consul.list(node_reports(app), consistency=Consistency.CONSISTENT)
        reports = [entry.value.decode(errors="replace") for entry in listing.entries]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        adoption = write_up(snapshot, reports, author=session.author, reason=reason, at=now)
        typer.echo(f"adopts {adoption.active} as generation {adoption.generation} for {len(reports)} reporting host(s)")
        if not yes and not typer.confirm("Shall every host follow the keys as they are now?"):
            raise typer.Abort
        await _write(consul, app, snapshot, adoption)
    typer.echo("adopted: the hosts follow active/image again")


async def _write(consul: ConsulClient, app: AppName, snapshot: KeySnapshot, adoption: Adoption) -> None:
    active, record = snapshot.active, snapshot.rollout
    result = await consul.txn(
        Op(Verb.CAS, rollout(app), adoption.record.encode(), _index(record)),
        Op(Verb.CAS, history(app, adoption.generation, 0), adoption.audit.encode(), 0),
        Op(Verb.CAS, active_image(app), adoption.active.encode(), _index(active)),
        Op(Verb.SET, stage_image(app), adoption.active.encode()),
    )
    match result:
        case TxnDone():
            return
        case TxnConflict(what=what):
            raise TransientError(f"the keys changed meanwhile ({what}): look at them and try again")
        case TxnDenied(what=what):
            raise PermanentError(f"the token may not write {app}/ and {app}-status/history/: {what}")


def _index(reading: object) -> int:
    return reading.modify_index if isinstance(reading, Present) else 0

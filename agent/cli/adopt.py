"""``tidegate adopt``: accept a state of Consul that went back, in one guarded transaction."""

import getpass
from datetime import UTC, datetime

import typer

from agent.adapters.consul import Consistency, ConsulClient
from agent.adapters.consul_wire import Op, TxnConflict, TxnDenied, TxnDone, Verb
from agent.config import Settings
from agent.core.adoption import Adoption
from agent.core.adoption import adopt as write_up
from agent.core.app import App
from agent.core.errors import PermanentError, TransientError
from agent.core.keys import (
    KeySnapshot,
    Present,
    active_image,
    app_prefix,
    history,
    node_reports,
    read_snapshot,
    rollout,
    stage_image,
)
from agent.daemon import make_consul


async def adopt(settings: Settings, *, reason: str, yes: bool) -> None:
    """
    Show what would be adopted, ask, and write it.

    Raises:
        PermanentError: nothing to adopt, or the token may not.
        TransientError: the keys changed meanwhile.
    """
    async with make_consul(settings.consul) as consul:
        app = settings.app
        snapshot = await _read(consul, app)
        listing = await consul.list(node_reports(app.name), consistency=Consistency.CONSISTENT)
        reports = [entry.value.decode(errors="replace") for entry in listing.entries]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        adoption = write_up(snapshot, reports, author=getpass.getuser(), reason=reason, at=now)
        typer.echo(f"adopts {adoption.active} as generation {adoption.generation} for {len(reports)} reporting host(s)")
        if not yes and not typer.confirm("Shall every host follow the keys as they are now?"):
            raise typer.Abort
        await _write(consul, app, snapshot, adoption)
    typer.echo("adopted: the hosts follow active/image again")


async def _read(consul: ConsulClient, app: App) -> KeySnapshot:
    # A recursive read without permission looks empty: the single key says whether it is.
    await consul.get(active_image(app.name))
    listing = await consul.list(app_prefix(app.name), consistency=Consistency.CONSISTENT)
    return read_snapshot(app.name, listing.entries, listing.index)


async def _write(consul: ConsulClient, app: App, snapshot: KeySnapshot, adoption: Adoption) -> None:
    active, record = snapshot.active, snapshot.rollout
    result = await consul.txn(
        Op(Verb.CAS, rollout(app.name), adoption.record.encode(), _index(record)),
        Op(Verb.CAS, history(app.name, adoption.generation, 0), adoption.audit.encode(), 0),
        Op(Verb.CAS, active_image(app.name), adoption.active.encode(), _index(active)),
        Op(Verb.SET, stage_image(app.name), adoption.active.encode()),
    )
    match result:
        case TxnDone():
            return
        case TxnConflict(what=what):
            raise TransientError(f"the keys changed meanwhile ({what}): look at them and try again")
        case TxnDenied(what=what):
            raise PermanentError(f"the token may not write {app.name}/ and {app.name}-status/history/: {what}")


def _index(reading: object) -> int:
    return reading.modify_index if isinstance(reading, Present) else 0

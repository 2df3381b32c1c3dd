"""Commands that only look: the fleet, its history, its nodes, this host; and ``init``."""

import json
from typing import Annotated

import typer

from agent.cli.commands.host import port_of
from agent.cli.options import ConsulOptions, Port, RolloutOptions, expand_option_groups

Generation = Annotated[
    str | None, typer.Argument(metavar="[N]", help="Number of the rollout, as 12 or #12 [default: the last one]")
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Maximum number of rollouts, newest first.")]


@expand_option_groups
def status(
    consul_options: ConsulOptions,
    local: Annotated[
        bool, typer.Option("--local", "--host", help="Show this host only; ask its agent, not Consul.")
    ] = False,
    api_port: Port = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show changes until Ctrl-C.")] = False,
) -> None:
    """
    Show the fleet: the rollout, what it waits for, and the slots of each host.

    Where Consul does not answer, or with --local, show this host only, as its agent reports it.
    """
    if local or api_port is not None:
        from agent.cli.views.host_table import show as show_host

        show_host(port_of(consul_options.config, api_port), as_json=consul_options.as_json, watch=watch)
        return
    from agent.cli.commands.status import show

    show(consul_options, lambda: port_of(consul_options.config, None), watch=watch)


@expand_option_groups
def plan(
    rollout_options: RolloutOptions,
    consul_options: ConsulOptions,
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGE]", help="Image of the planned deploy; without it, the plan of this host's agent."
        ),
    ] = None,
    api_port: Port = None,
) -> None:
    """Show what a deploy of IMAGE would do on each host, or what this host's agent would do now; changes nothing."""
    if image is None:
        from agent.cli.views.host_table import show_plan

        show_plan(port_of(consul_options.config, api_port), as_json=consul_options.as_json)
        return
    import asyncio

    from agent.adapters.consul.fleet_snapshot import snapshot
    from agent.cli.connect import open_session
    from agent.cli.rollout.request import image_of, request_of, spec_of, strategy_of
    from agent.cli.views import rollout_plan as fleet_plan
    from agent.cli.views.fleet import view_of
    from agent.cli.views.fleet_table import console

    reference = image_of(image)

    async def planned() -> fleet_plan.RolloutPlan:
        async with open_session(consul_options) as session:
            strategy = strategy_of(rollout_options, session.app_settings)
            view, _ = view_of(await snapshot(session.client, session.app))
            spec = spec_of(rollout_options.spec, session.app_settings, view.record)
            return fleet_plan.plan(view, request_of(reference, spec, rollout_options), strategy, spec.origin)

    found = asyncio.run(planned())
    if consul_options.as_json:
        typer.echo(json.dumps(fleet_plan.document(found)))
    else:
        console().print(fleet_plan.render(found), crop=False)
    raise typer.Exit(0 if found.goes else 1)


@expand_option_groups
def history(consul_options: ConsulOptions, limit: Limit = 20) -> None:
    """List the rollouts of an app: time, author, release, outcome and reason."""
    import asyncio

    from agent.adapters.consul.history import Rollout, read_history
    from agent.cli.connect import open_session
    from agent.cli.views.fleet_table import console
    from agent.cli.views.history_table import documents, table

    async def read() -> tuple[Rollout, ...]:
        async with open_session(consul_options) as session:
            return (await read_history(session.client, session.app))[-limit:]

    found = asyncio.run(read())
    if consul_options.as_json:
        typer.echo(json.dumps(documents(found)))
    elif not found:
        typer.echo("no rollout is recorded")
    else:
        console().print(table(found))


@expand_option_groups
def show(consul_options: ConsulOptions, generation: Generation = None) -> None:
    """Show one rollout: changes with author and reason, duration of each phase, log lines of failed containers."""
    import asyncio

    from agent.cli.commands.show import read
    from agent.cli.views.fleet_table import console
    from agent.cli.views.history_table import document, timeline

    found, members = asyncio.run(read(consul_options, generation))
    if consul_options.as_json:
        typer.echo(json.dumps(document(found, members)))
    else:
        console().print(timeline(found, members))


@expand_option_groups
def nodes(consul_options: ConsulOptions) -> None:
    """List the agents: health, version, coordinator, and state of the report."""
    import asyncio

    from agent.adapters.consul.fleet_snapshot import FleetSnapshot, snapshot
    from agent.cli.connect import open_session
    from agent.cli.views.fleet_table import console
    from agent.cli.views.nodes import documents, nodes_of, render

    async def read() -> FleetSnapshot:
        async with open_session(consul_options) as session:
            return await snapshot(session.client, session.app)

    seen = asyncio.run(read())
    found = nodes_of(seen)
    if consul_options.as_json:
        typer.echo(json.dumps(documents(found)))
        return
    console().print(render(found) if found else f"no agent of {seen.app} is known", crop=False)
    for note in seen.notes:
        typer.echo(f"! {note}")


@expand_option_groups
def doctor(
    consul_options: ConsulOptions,
    fleet: Annotated[bool, typer.Option("--fleet", help="Check the fleet in Consul, not this host.")] = False,
) -> None:
    """Check everything that this host's agent depends on, or the fleet; exit code 1 if a check failed."""
    from agent.cli.commands.doctor import show as show_host
    from agent.cli.commands.doctor import show_fleet

    if fleet:
        is_well = show_fleet(consul_options)
    else:
        from agent.config import load

        is_well = show_host(load(consul_options.config), as_json=consul_options.as_json)
    if not is_well:
        raise typer.Exit(1)


@expand_option_groups
def init(
    consul_options: ConsulOptions,
    name: Annotated[str, typer.Argument(metavar="APP", help="Name of the app: its root in Consul.")],
    print_only: Annotated[bool, typer.Option("--print", help="Show the policies and create nothing.")] = False,
) -> None:
    """Create the ACL policies that an app needs in Consul; creates no key and no token."""
    import asyncio
    from dataclasses import replace

    from agent.cli.commands import init as creating
    from agent.core.model.names import parse_app

    try:
        app = parse_app(name)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="APP") from exc
    if print_only:
        creating.show(app, as_json=consul_options.as_json)
        return
    asyncio.run(creating.create(replace(consul_options, app=app)))

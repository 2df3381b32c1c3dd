"""``tidegate init``: what an app needs in Consul before its first deploy: the ACL policies. No key is created empty."""

import json

import typer

from agent.adapters.consul.acl import AclDisabledError, Policy, write_policy
from agent.adapters.consul.policies import Role, policy, policy_name
from agent.cli.connect import open_session
from agent.cli.options import ConsulOptions
from agent.core.model.keys import active_image
from agent.core.model.names import AppName

MEANINGS = {
    Role.NODE: "a host that runs {app}",
    Role.COORDINATOR: "an agent that may coordinate rollouts of {app}",
    Role.OPERATOR: "who deploys {app}",
    Role.READ_ONLY: "who only looks at {app}",
}


def policies_of(app: AppName) -> dict[Role, Policy]:
    """Return the policies of an app."""
    return {
        role: Policy(policy_name(role, app), f"Tidegate: {MEANINGS[role].format(app=app)}", policy(role, app))
        for role in Role
    }


def show(app: AppName, *, as_json: bool) -> None:
    """Print what would be created."""
    found = policies_of(app)
    if as_json:
        typer.echo(json.dumps({each.name: each.rules for each in found.values()}))
        return
    for each in found.values():
        typer.echo(f"# policy {each.name}\n{each.rules}")


async def create(consul_options: ConsulOptions) -> None:
    """
    Create or correct the policies and say what comes next.

    Raises:
        ConsulForbiddenError: the token lacks ``acl:write``.
        ConsulUnavailableError: no usable answer.
    """
    async with open_session(consul_options) as session:
        done: dict[str, str] = {}
        try:
            for each in policies_of(session.app).values():
                done[each.name] = await write_policy(session.client, each)
        except AclDisabledError as exc:
            done, note = {}, f"{exc}; no policy was created"
        else:
            note = ""
        if consul_options.as_json:
            typer.echo(json.dumps({"app": session.app, "policies": done, "note": note or None}))
            return
        for name, what in done.items():
            typer.echo(f"policy {name}: {what}")
        typer.echo(note or _next(session.app))


def _next(app: AppName) -> str:
    tokens = [
        f"  consul acl token create -policy-name {policy_name(role, app)}  # {MEANINGS[role].format(app=app)}"
        for role in Role
    ]
    deploy = f"  tidegate deploy --app {app} IMAGE  # or by hand: consul kv put {active_image(app)} IMAGE"
    return "\n".join(("no token was created, and no key; next, a token for each of", *tokens, "then", deploy))

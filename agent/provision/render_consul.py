"""``tidegate consul-config``: render a Consul server's or client's configuration, checked by Consul itself."""

import json
import tomllib
from pathlib import Path
from typing import Any

import typer
from pydantic import SecretStr, ValidationError

from agent.adapters.host.atomic_file import write_atomically
from agent.core.model.errors import FatalError
from agent.core.model.field_problems import field_problems
from agent.provision.consul_config import ConsulPlan, Secrets, render
from agent.provision.consul_program import consul_version, validate

DEFAULT_FILE = Path("/etc/tidegate/consul.toml")
HIDDEN = "(in its file)"


async def write(file: Path, out: Path | None, program: str) -> None:
    """
    Render *file*, let Consul check it, and write it to *out* (mode 0640), or print it with its secrets hidden.

    Raises:
        FatalError: the file or a secret cannot be read, a key does not fit, or Consul refuses the result.
    """
    plan = load(file)
    version = await consul_version(program)
    config = render(plan, _secrets(plan), version)
    typer.echo(await validate(config, program), err=True)
    if out is None:
        typer.echo(json.dumps(_hidden(config), indent=2))
        return
    try:
        write_atomically(out, json.dumps(config, indent=2) + "\n", mode=0o640)
    except OSError as exc:
        raise FatalError(f"--out: {out} cannot be written: {exc.strerror}") from exc
    typer.echo(f"wrote {out}; a running Consul reads most of it at a reload only", err=True)


def load(file: Path) -> ConsulPlan:
    """
    Read the settings of a Consul agent.

    Raises:
        FatalError: the file is missing or no TOML, or a key is unknown or does not fit; each is named.
    """
    try:
        return ConsulPlan.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as exc:
        raise FatalError(f"{file} cannot be read: {exc.strerror}") from exc
    except ValidationError as exc:
        raise FatalError("\n".join(f"{file}: {each.text(whole='settings')}" for each in field_problems(exc))) from exc
    except ValueError as exc:
        raise FatalError(f"{file} is no TOML: {exc}") from exc


def _secrets(plan: ConsulPlan) -> Secrets:
    return Secrets(gossip_key=_read(plan.gossip_key_file), agent_token=_read(plan.agent_token_file))


def _read(file: Path | None) -> SecretStr | None:
    if file is None:
        return None
    try:
        return SecretStr(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as exc:
        raise FatalError(f"secret file {file} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc


def _hidden(config: dict[str, Any]) -> dict[str, Any]:
    shown = dict(config)
    if "encrypt" in shown:
        shown["encrypt"] = HIDDEN
    if "tokens" in shown.get("acl", {}):
        shown["acl"] = shown["acl"] | {"tokens": {"agent": HIDDEN}}
    return shown

"""The environments that every property must hold for."""

import json
from functools import cache
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from infra.config import App, Network, StackConfig, Web, load
from infra.template.stack import build

ROOT = Path(__file__).parents[2]
Template = dict[str, Any]

CASES = {
    "dev": load("dev"),
    "prod": load("prod"),
    "one-nat": StackConfig(stack="one-nat", network=Network(private_subnets=True)),
    "ssh": StackConfig(
        stack="ssh", network=Network(ssh_cidrs=(IPv4Network("203.0.113.7/32"), IPv4Network("198.51.100.0/24")))
    ),
    "named-zones": StackConfig(
        stack="zones",
        network=Network(zones=("us-east-1a", "us-east-1d")),
        web=Web(count=2, max_count=4),
        app=App(name="shop", repositories=("shop/web", "shop/jobs")),
    ),
}


@cache
def _text(name: str) -> str:
    return json.dumps(build(CASES[name]).to_dict(), sort_keys=True)


def template(name: str) -> Template:
    """Return a fresh copy of a case's template."""
    loaded: Template = json.loads(_text(name))
    return loaded

"""The ACL policies that come with Tidegate: who may do what in Consul, for one app (``agent/policies``)."""

from enum import StrEnum
from importlib.resources import files

from agent.core.model.names import AppName


class Role(StrEnum):
    """Who needs a token."""

    NODE = "node"
    """An agent on a host that runs the app."""
    COORDINATOR = "coordinator"
    """An agent that may coordinate; on a host with apps beside the node's policy."""
    OPERATOR = "operator"
    """Who deploys."""
    READ_ONLY = "read-only"
    """Who only looks."""


def policy_name(role: Role, app: AppName) -> str:
    """Return how the policy is called in Consul."""
    return f"tidegate-{app}-{role}"


def policy(role: Role, app: AppName) -> str:
    """Return the rules of *role* for *app* in Consul's own language, as ``consul acl policy create -rules=`` reads."""
    text = files("agent").joinpath("policies", f"{role}.hcl").read_text(encoding="utf-8")
    return text.replace("{app}", app)

"""What a person may do with the cluster, as commands to copy."""

import sys
from pathlib import Path

from cluster.cluster import Cluster
from cluster.secrets import REGISTRY
from cluster.settings import APP

QUICK = "--bake-time 20s --drain-idle 10s"
"""For a person to watch a whole deploy; by default the old release stays warm for five minutes."""


def steps(cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """Return what may be done, and the command for it."""
    tidegate = _short(Path(sys.executable).with_name("tidegate"))
    project = cluster.layout.project
    image = f"{REGISTRY}/testapp"
    return (
        ("deploy a", f"{tidegate} deploy {image}:a-finish --app {APP} {QUICK} --reason first"),
        ("look at the site", f"curl -i http://127.0.0.1:{cluster.layout.site_port}/"),
        ("watch the fleet", f"{tidegate} status --app {APP} --watch"),
        ("b, on one host first", f"{tidegate} deploy {image}:b-finish --app {APP} {QUICK} --canary 1 --reason b"),
        ("go on, or back", f"{tidegate} promote --app {APP}; {tidegate} rollback --app {APP} --reason no"),
        ("see a refusal", f"{tidegate} deploy {image}:bad-finish --app {APP} {QUICK} --reason bad"),
        ("two hosts more", "make cluster-scale N=5"),
        ("reboot a host", f"docker restart -t 60 {project}-web-2-1"),
        ("cut its power", f"docker kill {project}-web-2-1; docker start {project}-web-2-1"),
        ("go onto a host", f"docker exec -it {project}-web-1-1 bash"),
        ("remove all of it", "make cluster-down"),
    )


def tell(cluster: Cluster) -> None:
    """Print it."""
    print("In another terminal, here; first tell tidegate and consul where the cluster is, and who you are:")
    for name, value in cluster.environment().items():
        print(f"  export {name}={value}")
    print()
    for words, command in steps(cluster):
        print(f"  {words:<22} {command}")
    sys.stdout.flush()


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

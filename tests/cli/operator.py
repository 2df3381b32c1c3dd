"""An operator with a shell: the command line in this process, or as the installed program."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from agent.cli.main import cli
from agent.core.model.names import parse_app
from tests.adapters.consul.suite import server_of
from tests.cli.fake_fleet import FakeFleet, fake_fleet

TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Operator:
    """Somebody with the consul command's variables and no settings file."""

    fake_fleet: FakeFleet

    @property
    def env(self) -> dict[str, str]:
        """The variables of a laptop without settings."""
        return {
            "CONSUL_HTTP_ADDR": self.fake_fleet.url.removeprefix("http://"),
            "TIDEGATE_CONFIG": "/none",
            "TIDEGATE_AUTHOR": "ann@laptop",
            "TIDEGATE_APP": self.fake_fleet.app,
        }

    def __call__(self, *arguments: str, **env: str) -> Result:
        """Run a command to its end, in this process."""
        return CliRunner().invoke(cli, list(arguments), env=self.env | env)

    def json(self, *arguments: str) -> Any:
        """Run a command with `--json` and return its document."""
        return json.loads(self(*arguments, "--json").stdout)

    def begin(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start the installed program."""
        return subprocess.Popen(
            # What a shell runs in its background ignores Ctrl-C, and so would its children.
            ["/usr/bin/env", "--default-signal=INT", TIDEGATE, *arguments],
            env={"PATH": "/usr/bin:/bin"} | self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def open_fake_fleet(kind: str = "fake") -> Iterator[FakeFleet]:
    """Open a fake fleet with a Consul of its own, and three hosts that serve a."""

    async def serve(stack: AsyncExitStack) -> str:
        return (await stack.enter_async_context(server_of(kind))).url

    with fake_fleet(serve, parse_app(f"shop{next(_numbers)}")) as made:
        made.put("active/image", "registry.example/shop:a")
        for node in ("web-1", "web-2", "web-3"):
            made.host(node)
        yield made


def code_of(result: Result) -> int:
    """Return the exit code that `main` makes of a result."""
    return int(getattr(result.exception, "exit_code", result.exit_code))

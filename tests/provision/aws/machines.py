"""Machines as tests need them."""

from agent.provision.aws.certificates import Bundle
from agent.provision.aws.files import Machine

BUNDLE = Bundle("authority\n", "authority key\n", "certificate\n", "key\n")
SETTINGS = {
    "domain": "cs90",
    "servers": 3,
    "zone_id": "Z1",
    "zones": "us-east-1a us-east-1b us-east-1d",
    "initial_image": "",
    "launch_hook": "serving",
    "leave_hook": "leave",
    "launch_timeout_s": 840,
    "leave_timeout_s": 270,
    "app": {"name": "cs90", "container_port": 80, "health_path": "/", "knobs": {"bake_time": "10m"}},
}


def machine(role: str = "consul", number: int = 1) -> Machine:
    """Return one."""
    return Machine(
        stack="final-project",
        region="us-east-1",
        role=role,
        group="WebHosts" if role == "web" else "ConsulServers",
        instance=f"i-0{number}",
        zone="us-east-1a",
        host=f"ip-10-43-1-{number}.ec2.internal",
        account="123456789012",
    )


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

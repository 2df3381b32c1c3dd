"""All checks of one host, in the order in which things depend on each other."""

from agent.adapters.docker.adapter import DockerAdapter
from agent.adapters.haproxy.runtime_api import HaproxySocket
from agent.config import Settings
from agent.daemon import proxy_paths
from agent.doctor.consul import check_consul
from agent.doctor.finding import Finding
from agent.doctor.haproxy import check_haproxy
from agent.doctor.host import check_disk, check_docker, check_subnet
from agent.registration import make_consul


async def examine(settings: Settings) -> list[Finding]:
    """Look at everything; each check has its deadline, none changes anything."""
    findings: list[Finding] = []
    async with make_consul(settings.consul) as consul:
        findings += await check_consul(consul, settings.app, settings.node)
    findings += await check_haproxy(HaproxySocket(settings.app, proxy_paths(settings)), settings)
    docker = DockerAdapter(settings.docker.socket, settings.app, settings.node, settings.docker.config_file)
    async with docker:
        findings += await check_docker(docker)
    findings += check_disk(settings.docker.data_root, settings.state_dir)
    findings.append(check_subnet(settings))
    return findings

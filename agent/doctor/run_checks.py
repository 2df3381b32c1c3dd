"""All checks of one host, in the order in which things depend on each other."""

from agent.config import Settings
from agent.doctor.consul import check_consul
from agent.doctor.finding import Finding
from agent.doctor.haproxy import check_haproxy
from agent.doctor.host import check_disk, check_docker, check_subnet
from agent.factories import make_consul, make_docker, make_proxy


async def run_checks(settings: Settings) -> list[Finding]:
    """Look at everything; each check has its deadline, none changes anything."""
    findings: list[Finding] = []
    async with make_consul(settings.consul) as consul:
        findings += await check_consul(consul, settings.app, settings.node)
    findings += await check_haproxy(make_proxy(settings.haproxy, settings.app, settings.state_dir), settings)
    async with make_docker(settings.docker, settings.app, settings.node) as docker:
        findings += await check_docker(docker)
    findings += check_disk(settings.docker.data_root, settings.state_dir)
    findings.append(check_subnet(settings))
    return findings

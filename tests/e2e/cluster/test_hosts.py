"""What a machine is like, and how hosts come, go, and come back: in mid-rollout, too late, or without a right to."""

import asyncio
import re

import pytest

from agent.core.model.record import Phase
from cluster.machine import PAUSE_S, Machine, until_ready
from cluster.scenarios.cluster import LASTING, ClusterScenario, PushedImages, image_of
from cluster.scenarios.fleet import version_of
from cluster.servers.process import eventually
from cluster.settings import web_files

pytestmark = [
    pytest.mark.real,
    pytest.mark.traffic,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
FINGERPRINT = (
    "find /opt/tidegate/libexec /opt/tidegate/bin /opt/tidegate/.installed /etc/systemd /etc/tidegate /etc/docker "
    "/etc/tmpfiles.d /etc/consul.d /var/lib/tidegate /usr/bin/consul /usr/local/bin -printf '%p %m %u %g %T@ %l\\n' "
    "| grep -v __pycache__ | sort; id tidegate; id consul; dpkg-query -W; systemctl list-unit-files --state=enabled"
)


async def test_provisioning_again_changes_nothing(scenario: ClusterScenario) -> None:
    """No file is written, no package installed, no unit enabled anew; and what runs goes on."""
    web = scenario.cluster.machine("web-1")
    before = await web.shell(FINGERPRINT)
    await web.run("/usr/src/tidegate/infra/image/provision.sh", "web", "--wheels", "/usr/src/tidegate/wheels")
    assert await web.shell(FINGERPRINT) == before
    assert await web.asks() == (200, "ready")


async def test_nothing_runs_as_root_that_need_not(scenario: ClusterScenario) -> None:
    """The agent, Consul and HAProxy's worker; and no unit has failed."""
    for machine, programs in (
        (scenario.cluster.machine("web-1"), {"tidegate": "tidegate", "consul": "consul"}),
        (scenario.cluster.machine("consul-a"), {"tidegate": "tidegate", "consul": "consul"}),
    ):
        processes = [line.split(None, 1) for line in (await machine.shell("ps -eo user:32,comm")).splitlines()]
        users = {name: {user for user, each in processes if each == name} for name in programs}
        assert users == {name: {user} for name, user in programs.items()}
        assert await machine.run("systemctl", "--failed", "--no-legend") == ""
    lines = (await scenario.cluster.machine("web-1").shell("ps -eo user:32,args | grep '[h]aproxy -Ws'")).splitlines()
    assert {line.split()[0] for line in lines} == {"root", "haproxy"}, "a master that may bind, and its worker"


async def test_secrets_and_sockets_are_for_their_readers_alone(scenario: ClusterScenario) -> None:
    """Files of secrets are 0600; HAProxy's and Docker's sockets are not for everybody."""
    for machine in (scenario.cluster.machine("web-1"), scenario.cluster.machine("consul-a")):
        listing = await machine.shell("find /etc/tidegate -type f -printf '%m %p\\n'")
        open_to_others = {line.split()[1] for line in listing.splitlines() if line.split()[0] != "600"}
        assert {name.rpartition("/")[2] for name in open_to_others} <= {
            "ca.pem",
            "consul.pem",
            "consul.toml",
            "tidegate.toml",
        }
    sockets = "/run/haproxy/tidegate.sock /run/haproxy-master.sock /run/docker.sock"
    for line in (await scenario.cluster.machine("web-1").shell(f"stat -c '%a %n' {sockets}")).splitlines():
        assert line.split()[0] == "660", line


async def test_a_boot_with_the_state_directory_wiped_works(scenario: ClusterScenario) -> None:
    """Map files are made before HAProxy starts; what shall run comes from Consul."""
    web = scenario.cluster.machine("web-2")
    async with scenario.traffic() as traffic:
        await web.power_off()
        await web.power_on()
        await until_ready(web)
        # Out of traffic in order: a HAProxy that is stopped while the edge still sends to it cuts what it holds.
        await web.run("systemctl", "stop", "tidegate-drain", timeout_s=60)
        await web.shell("systemctl stop tidegate-agent haproxy && rm -rf /var/lib/tidegate/*")
        await web.cut_power()
        await web.power_on()
        await until_ready(web)
        outcome = await traffic.stop()
    assert image_of(await scenario.until_serves(web, scenario.began_with)) == scenario.began_with
    assert outcome.failed_by_fault == {}, outcome.failures[:5]


async def test_a_host_that_slept_through_two_deploys_never_serves_the_old_release(
    scenario: ClusterScenario, test_images: PushedImages
) -> None:
    """It has the old one on its disk and in its journal; Consul's word comes first."""
    web = scenario.cluster.machine("web-3")
    cluster = scenario.cluster
    target = cluster.reference(await cluster.images().testapp("d" if scenario.version == "c" else "c"))
    await web.power_off()
    for image in (test_images.other(scenario.version), target):
        await scenario.deploy(image, "--wait", "done")
    async with scenario.traffic() as traffic:
        await web.power_on()
        await until_ready(web, deadline_s=90)
        report = await web.report()
        assert report is not None
        assert image_of(report).startswith(target)
        outcome = await traffic.stop()
    assert outcome.failed_by_fault == {}
    assert {sample.version for sample in outcome.samples} == {version_of(target)}


async def test_a_host_without_a_valid_token_gets_no_traffic_and_says_why(scenario: ClusterScenario) -> None:
    """Its token was revoked before it came: not ready, with the reason; the rest goes on."""
    async with scenario.traffic() as traffic:
        (late,) = await scenario.cluster.scale(4)
        async with scenario.cluster.consul() as consul:
            await consul.revoke(f"node/{late.name}")
        await late.run("systemctl", "stop", "tidegate-agent")
        await late.shell("rm -rf /var/lib/tidegate/*; systemctl restart haproxy tidegate-agent")
        reasons: list[str] = []

        async def says_why() -> bool:
            report = await late.report()
            reasons.append(f"{report.error} {report.summary} {report.notes}" if report else "")
            if re.search("ACL not found|403|forbidden", reasons[-1]):
                return True
            await asyncio.sleep(PAUSE_S)
            return False

        assert await eventually(says_why, deadline_s=60), reasons[-1]
        assert (await late.asks())[0] == 503
        outcome = await traffic.stop()
    assert outcome.failed_by_fault == {}
    await scenario.cluster.scale(3)


async def test_hosts_that_join_in_mid_rollout_follow_it_and_nobody_waits_for_leavers(
    scenario: ClusterScenario, test_images: PushedImages
) -> None:
    """Before the commit one stages, too; after it the next serves by the table. In the end both leave."""
    target = test_images.other(scenario.version)
    async with scenario.traffic(LASTING) as traffic:
        await scenario.deploy(target, "--manual", "--canary", "1", "--wait", "promotion")
        for count, phase in ((4, Phase.READY), (5, Phase.AWAITING_PROMOTION)):
            await scenario.until_phase(phase)
            (late,) = await scenario.cluster.scale(count)
            await until_ready(late, deadline_s=90)
            await _holds(late, target)
            promoted = await scenario.command("promote", "--reason", "a test", "--detach")
            assert promoted.code == 0, promoted.err
        for name in ("web-4", "web-5"):
            await scenario.until_serves(scenario.cluster.machine(name), target)
        await scenario.until_phase(Phase.BAKING, Phase.RETIRING, Phase.SUCCESSFUL)
        await scenario.cluster.scale(3)
        await scenario.until_phase(Phase.SUCCESSFUL, deadline_s=60)
        outcome = await traffic.stop()
    verdict = await scenario.verdict(outcome, settle_s=8)
    assert verdict.is_clean, f"{verdict}\n{outcome.failures[:5]}"


async def _holds(machine: Machine, image: str) -> None:
    async def holds() -> bool:
        report = await machine.report()
        if report and any(slot.image.startswith(image) and slot.pin for slot in report.slots.values()):
            return True
        await asyncio.sleep(PAUSE_S)
        return False

    assert await eventually(holds, deadline_s=60), await machine.report()


async def test_what_a_web_host_is_told_holds_no_right_to_deploy(scenario: ClusterScenario) -> None:
    """Its files name its own two tokens, and neither the operator's nor a coordinator's."""
    told = "".join(file.text for file in web_files("web-1", scenario.cluster.secrets, scenario.cluster.app))
    tokens = scenario.cluster.secrets.tokens
    assert {purpose for purpose, token in tokens.items() if token in told} == {"agent/web-1", "node/web-1"}

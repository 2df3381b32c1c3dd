"""From release and spec to Docker's container document, and the pure readers of what Docker shows."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.docker.container_config import RunRequest, container_config, container_name, read_env_files
from agent.adapters.docker.errors import hide
from agent.adapters.docker.inspect import DaemonInfo, container, last_lines, platform_mismatch
from agent.adapters.docker.pull import PullProgress, pull_error
from agent.adapters.registry.reference import matching_digests, pull_name, repository
from agent.core.host.observed import ContainerState
from agent.core.model.app import App
from agent.core.model.errors import ImagePullError, ImageRefusedError, PermanentError
from agent.core.model.names import Digest, NodeName, SlotName, parse_app, parse_reference
from agent.core.model.release import Release
from agent.core.model.spec import RunSpec

NODE = NodeName("web-1")
DIGEST = Digest("sha256:" + "ab" * 32)
REFERENCE = parse_reference("reg.example:5000/shop/web:1.2")


def app(**settings: Any) -> App:
    return App(name=parse_app("cs90"), **settings)


def ask(generation: int = 0, **spec: Any) -> RunRequest:
    return RunRequest(SlotName.GREEN, Release(REFERENCE, DIGEST, RunSpec(**spec), generation), 4)


def config(asked: RunRequest, file_env: dict[str, str] | None = None, settings: App | None = None) -> dict[str, Any]:
    return container_config(settings or app(), NODE, asked, image="image", file_env=file_env or {})


def test_a_plain_release_gets_address_labels_and_no_restarts() -> None:
    """The least there is: the slot's address, our labels, rotated logs, restart policy no."""
    asked = ask(generation=7)
    found = config(asked)
    assert found["NetworkingConfig"] == {
        "EndpointsConfig": {"tidegate-cs90": {"IPAMConfig": {"IPv4Address": "172.30.80.12"}}}
    }
    assert found["Labels"] == {
        "tidegate.app": "cs90",
        "tidegate.node": "web-1",
        "tidegate.release": asked.release.id,
        "tidegate.reference": REFERENCE,
        "tidegate.digest": DIGEST,
        "tidegate.slot": "green",
        "tidegate.generation": "7",
        "tidegate.pin": asked.release.pin,
        "tidegate.tenancy": "4",
    }
    assert found["HostConfig"]["RestartPolicy"] == {"Name": "no"}
    assert (found["Env"], found["StopTimeout"]) == ([], 10)
    assert not {"Cmd", "StopSignal", "User"} & found.keys()
    assert not {"Memory", "NanoCpus"} & found["HostConfig"].keys()


def test_limits_of_the_spec_are_bytes_and_billionths_of_a_processor() -> None:
    """As Docker's API counts them."""
    found = config(ask(memory="64m", cpus=0.5))["HostConfig"]
    assert (found["Memory"], found["NanoCpus"]) == (64 * 1024**2, 500_000_000)


def test_agents_that_share_a_daemon_have_networks_of_their_own() -> None:
    """The setting names the network; by default it is the app's name."""
    named = app(network="host-b")
    found = config(ask(), settings=named)
    assert found["HostConfig"]["NetworkMode"] == "host-b"
    assert list(found["NetworkingConfig"]["EndpointsConfig"]) == ["host-b"]
    assert app().network_name == "tidegate-cs90"


def test_the_spec_wins_over_env_files() -> None:
    """A variable in both has the spec's value, once."""
    found = config(ask(env={"A": "spec"}), {"A": "file", "B": "file"})
    assert sorted(found["Env"]) == ["A=spec", "B=file"]


def test_an_empty_command_is_not_no_command() -> None:
    """``()`` takes the image's arguments away; absent leaves them."""
    assert config(ask(command=()))["Cmd"] == []
    assert "Cmd" not in config(ask())


def test_the_specs_grace_is_rounded_up_to_whole_seconds() -> None:
    """Docker knows seconds only; a grace is never shortened."""
    assert config(ask(stop_grace_period=0.2))["StopTimeout"] == 1
    assert config(ask(stop_grace_period=0))["StopTimeout"] == 0


@pytest.mark.parametrize(
    ("log", "options"),
    [
        ({"driver": "json-file"}, {"max-size": "10m", "max-file": "3"}),
        ({"driver": "local"}, {"max-size": "10m", "max-file": "3"}),
        ({"driver": "journald"}, {}),
        ({"driver": "journald", "options": {"tag": "shop"}}, {"tag": "shop"}),
    ],
)
def test_rotation_is_for_drivers_with_files(log: dict[str, Any], options: dict[str, str]) -> None:
    """A driver without files refuses the default options, so it does not get them."""
    assert config(ask(log=log))["HostConfig"]["LogConfig"]["Config"] == options


def test_secret_values_are_in_env_only() -> None:
    """The value stands in Env and nowhere else in what Docker is sent."""
    found = config(ask(env={"KEY": "hunter2-secret"}))
    env = found.pop("Env")
    assert env == ["KEY=hunter2-secret"]
    assert "hunter2-secret" not in repr(found)
    assert "hunter2-secret" not in repr(ask(env={"KEY": "hunter2-secret"}))


def test_container_names_differ_by_node_and_tenancy() -> None:
    """Two occupants, or two hosts on one daemon, never meet in a name."""
    name = container_name(app(), NODE, ask())
    assert name == f"tidegate-cs90-green-{ask().release.id}-web-1-4"


def test_env_files_are_read_line_by_line(tmp_path: Path) -> None:
    """Comments and empty lines are left out, values are taken as they are, the later file wins."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b'\xef\xbb\xbf# comment\n\nA=1\r\n  B=x = y \nQ="quoted" # no comment\nEMPTY=\n')
    second.write_text("A=2")
    assert read_env_files((str(first), str(second))) == {
        "A": "2",
        "B": "x = y ",
        "Q": '"quoted" # no comment',
        "EMPTY": "",
    }


@pytest.mark.parametrize("line", ["hunter2", "hun ter2=1", "=hunter2", "export KEY=hunter2", "K=hunter2\0"])
def test_a_bad_line_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    """The error has file and line number; the line may hold a secret."""
    path = tmp_path / "app.env"
    path.write_text(f"# first\nA=1\n{line}\n")
    with pytest.raises(PermanentError, match=r"app\.env': line 3 ") as caught:
        read_env_files((str(path),))
    assert "hunter2" not in str(caught.value)
    assert "hun ter2" not in str(caught.value)


@pytest.mark.parametrize("content", [b"A=\xff\xfe", b"A=" + b"x" * 1024**2])
def test_a_file_that_is_no_env_file_is_named(tmp_path: Path, content: bytes) -> None:
    """Binary or endless files are refused."""
    path = tmp_path / "app.env"
    path.write_bytes(content)
    with pytest.raises(PermanentError, match=r"app\.env"):
        read_env_files((str(path),))


@pytest.mark.parametrize(
    ("reference", "full", "pulled"),
    [
        ("nginx", "docker.io/library/nginx", "docker.io/library/nginx:latest"),
        ("nginx:1", "docker.io/library/nginx", "docker.io/library/nginx:1"),
        ("shop/web", "docker.io/shop/web", "docker.io/shop/web:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx", "docker.io/library/nginx:latest"),
        ("localhost/web:2", "localhost/web", "localhost/web:2"),
        ("reg.example:5000/a/b", "reg.example:5000/a/b", "reg.example:5000/a/b:latest"),
        (f"reg.example/a:1@{DIGEST}", "reg.example/a", f"reg.example/a@{DIGEST}"),
    ],
)
def test_references_are_completed_as_docker_does(reference: str, full: str, pulled: str) -> None:
    """Registry, library and tag are what Docker would fill in; a digest makes the tag meaningless."""
    assert str(repository(reference)) == full
    assert pull_name(parse_reference(reference)) == pulled


def test_digests_of_other_repositories_do_not_count() -> None:
    """An image that is known under two repositories has the digest of the one asked for."""
    other = "sha256:" + "cd" * 32
    found = matching_digests(REFERENCE, (f"other.example/web@{other}", f"reg.example:5000/shop/web@{DIGEST}"))
    assert found == (DIGEST,)


def shown(**labels: str) -> dict[str, Any]:
    asked = {**config(ask())["Labels"], **{f"tidegate.{name}": value for name, value in labels.items()}}
    state = {"Status": "exited", "ExitCode": 137, "OOMKilled": True, "StartedAt": "t", "Error": "boom\x1b[1m"}
    return {"Id": "1" * 64, "Config": {"Labels": asked}, "State": state}


def test_out_of_memory_is_said_of_an_ended_container_only() -> None:
    """A container whose helper process was killed, but which runs, has no error."""
    document = shown()
    assert container(document).error == "killed: out of memory"
    document["State"] |= {"Status": "running", "Error": ""}
    found = container(document)
    assert (found.state, found.error, found.exit_code) == (ContainerState.RUNNING, "", None)


@pytest.mark.parametrize(
    "labels",
    [
        {"slot": "red"},
        {"release": "short"},
        {"pin": "x" * 12},
        {"generation": "-1"},
        {"tenancy": ""},
        {"tenancy": "٣"},
        {"digest": "sha256:1"},
        {"reference": "a b"},
    ],
)
def test_a_senseless_label_is_an_error(labels: dict[str, str]) -> None:
    """Nothing is guessed from a label that we would not have written."""
    with pytest.raises(ValueError):
        container(shown(**labels))


@given(text=st.text(), lines=st.integers(1, 30), limit=st.integers(1, 200))
def test_last_lines_are_bounded_and_printable(text: str, lines: int, limit: int) -> None:
    """Whatever a container prints, what is shown of it fits and holds no control character."""
    found = last_lines(text.encode("utf-8", "replace").decode(), lines, limit)
    assert len(found) <= lines
    assert sum(len(line.encode()) for line in found) <= limit
    assert not any(char < " " or char == "\x7f" for line in found for char in line)


def test_hidden_values_are_gone_longest_first() -> None:
    """A secret that contains another leaves no remains; words too short to be secrets stay."""
    assert hide("pass=secret-longer, secret, 1", ("secret", "secret-longer", "1", "")) == "pass=***, ***, 1"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("manifest for r/a:1 not found: manifest unknown: manifest unknown", ImageRefusedError),
        ("pull access denied for a, repository does not exist or may require 'docker login'", ImageRefusedError),
        ("denied: Your authorization token has expired. Reauthenticate and try again.", ImageRefusedError),
        ("no matching manifest for linux/amd64 in the manifest list entries", ImageRefusedError),
        ("toomanyrequests: You have reached your pull rate limit. denied: see the web page", ImagePullError),
        ("received unexpected HTTP status: 502 Bad Gateway", ImagePullError),
        ('Get "https://r/v2/": net/http: request canceled while waiting for connection', ImagePullError),
        ("dial tcp: lookup r.example: no such host", ImagePullError),
        ("write /var/lib/docker/tmp/x: no space left on device", ImagePullError),
    ],
)
def test_only_what_is_final_is_refused(words: str, kind: type[Exception]) -> None:
    """A registry's no is final; trouble on the way, and a rate limit, may pass."""
    assert type(pull_error(REFERENCE, words)) is kind


def layer(name: str, status: str, current: int = 0, total: int = 0) -> dict[str, object]:
    return {"id": name, "status": status, "progressDetail": {"current": current, "total": total} if total else {}}


def test_pull_progress_counts_bytes_and_guesses_what_waits() -> None:
    """A layer of unknown size counts as one of average size, so that 100 % is not reached early."""
    progress = PullProgress(lambda: 0.0)
    assert progress.text() == ""
    for name in ("a", "b"):
        progress.feed(layer(name, "Pulling fs layer"))
    progress.feed(layer("a", "Downloading", 100, 100))
    assert progress.text() == "50 %"
    progress.feed(layer("b", "Downloading", 150, 300))
    assert progress.percent == 62
    progress.feed(layer("b", "Download complete"))
    assert progress.percent == 100


def test_repeating_oneself_is_no_progress() -> None:
    """The stall is counted from the last new thing; 'Retrying' is none."""
    now = [0.0]
    progress = PullProgress(lambda: now[0])
    assert progress.feed(layer("a", "Downloading", 62, 100))
    now[0] = 40.0
    assert not progress.feed(layer("a", "Downloading", 62, 100))
    assert not progress.feed(layer("a", "Retrying in 5 seconds"))
    assert (progress.last_change, progress.text()) == (0.0, "62 %, stalled 40s")


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ({"Architecture": "amd64", "Os": "linux"}, None),
        ({"Architecture": "386", "Os": "linux"}, None),
        ({"Architecture": "", "Os": ""}, None),
        ({"Architecture": "arm64", "Os": "linux"}, "image is for arm64, this host is amd64"),
        ({"Architecture": "amd64", "Os": "windows"}, "image is for windows, this host is linux"),
    ],
)
def test_only_images_for_this_host_run(image: dict[str, str], why: str | None) -> None:
    """What the host runs without emulation is fine, and so is an image that does not tell."""
    host = DaemonInfo("1", "1.41", "overlay2", live_restore=True, os="linux", architecture="amd64")
    assert platform_mismatch(image, host) == why

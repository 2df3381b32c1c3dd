"""The rendered configuration: what it says for which settings, and that HAProxy takes it without a warning."""

import os
import re
from pathlib import Path

import pytest

from agent.adapters.haproxy.files import ProxyPaths, write_map, write_whole
from agent.adapters.haproxy.runtime_api import HaproxySocket
from agent.core.model.app import App, DeployTimings
from agent.core.model.errors import FatalError, PermanentError, TransientError
from agent.provision.haproxy_config import ProxyOptions, check, data_dir, render

PATHS = ProxyPaths(
    runtime_socket=Path("/run/haproxy/admin.sock"),
    state_dir=Path("/var/lib/tidegate"),
    state_file=Path("/run/tidegate/servers.state"),
)
FULL = ProxyOptions(ops_port=8404, user="haproxy", group="haproxy", socket_group="haproxy", maxconn=500)


def own_paths(home: Path) -> ProxyPaths:
    return ProxyPaths(runtime_socket=home / "admin.sock", state_dir=home, state_file=home / "servers.state")


def app(**settings: object) -> App:
    return App.model_validate({"name": "cs90", **settings})


def test_every_placeholder_is_filled_in() -> None:
    """None is left, in the shortest and the longest form; lines stay whole."""
    for text in (render(app(), PATHS), render(app(hosts=("a.example", "b.example")), PATHS, FULL)):
        assert "@{" not in text
        assert "\n\n\n" not in text
        assert text.endswith("\n")


def test_the_slots_are_the_apps_addresses_disabled_at_the_start() -> None:
    """Nothing serves before the agent says so."""
    text = render(app(container_port=8080), PATHS)
    assert "server blue 172.30.80.11:8080 disabled\n" in text
    assert "server green 172.30.80.12:8080 disabled\n" in text
    assert "bind 0.0.0.0:80\n" in text


@pytest.mark.parametrize(("idle_s", "restamp_s"), [(1, 1), (4, 1), (4.2, 1), (19, 1), (20, 2), (1800, 180)])
def test_no_visitor_is_moved_before_being_idle_for_the_whole_of_visit_idle(idle_s: float, restamp_s: int) -> None:
    """The oldest stamp that counts is as old as a stamp may lag behind the last request, plus visit_idle."""
    text = render(app(knobs={"visit_idle": idle_s}), PATHS)
    shifted = re.search(r"add\(60\) -m int 0:(\d+)", text)
    max_age = re.search(r"Max-Age=(\d+);", text)
    assert shifted
    assert max_age
    oldest_s = int(shifted[1]) - 60
    assert f"acl is_fresh var(txn.tg_age) -m int lt {restamp_s}\n" in text
    # In whole seconds an age may read up to 1 s more than it is.
    assert oldest_s >= idle_s + restamp_s + 1
    assert oldest_s <= idle_s + restamp_s + 2
    assert int(max_age[1]) == oldest_s


def test_old_workers_live_no_longer_than_a_drain() -> None:
    """hard-stop-after is drain_timeout unless a shorter one is asked for."""
    knobs = DeployTimings(drain_timeout=600)
    assert "hard-stop-after 600000ms\n" in render(app(knobs=knobs), PATHS)
    assert "hard-stop-after 1500ms\n" in render(app(knobs=knobs), PATHS, ProxyOptions(hard_stop_after_s=1.5))
    with pytest.raises(PermanentError, match="hard_stop_after: 601 s"):
        render(app(knobs=knobs), PATHS, ProxyOptions(hard_stop_after_s=601))


def test_settings_that_cannot_work_are_named() -> None:
    """Rather than a HAProxy that refuses to start on the host."""
    with pytest.raises(PermanentError, match="alive"):
        render(app(name="alive"), PATHS)
    with pytest.raises(PermanentError, match="ops_port"):
        render(app(port=8404), PATHS, FULL)
    with pytest.raises(PermanentError, match="socket_group"):
        render(app(), PATHS, ProxyOptions(socket_group="a b"))
    for bad in ("relative/path", "/with blank", "/semi;colon", "/new\nline", "/back\\slash", "/quo'te", "/$HOME"):
        with pytest.raises(FatalError, match="state_dir"):
            ProxyPaths(Path("/run/a.sock"), Path(bad), Path("/run/s"))


def test_user_and_groups_are_left_out_unless_asked_for() -> None:
    """The unit's own User= and Group= hold then."""
    assert not re.search(r"^    (user|group) ", render(app(), PATHS), re.MULTILINE)
    text = render(app(), PATHS, FULL)
    assert "    user haproxy\n    group haproxy\n    log " in text
    assert "mode 660 level admin group haproxy expose-fd listeners" in text


def test_the_templates_are_found() -> None:
    """In the checkout or in the installed package."""
    assert {"haproxy.cfg", "hosts.cfg", "ops.cfg", "holding.html"} <= {path.name for path in data_dir().iterdir()}


def test_files_are_replaced_whole_and_readable_by_the_directorys_group(tmp_path: Path) -> None:
    """Mode 0640, the directory's group, no temporary file left."""
    os.chown(tmp_path, -1, os.getgroups()[0] if os.getuid() else 1)
    path = tmp_path / "x.map"
    write_whole(path, "old\n")
    write_whole(path, "new\n")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new\n", 0o640)
    assert path.stat().st_gid == tmp_path.stat().st_gid
    assert list(tmp_path.iterdir()) == [path]


def test_a_map_that_holds_what_is_wanted_is_not_written_again(tmp_path: Path) -> None:
    """A converged host writes nothing."""
    path = tmp_path / "x.map"
    write_map(path, {"a": "1", "b": "2"})
    before = path.stat().st_ino
    write_map(path, {"b": "2", "a": "1"})
    assert path.stat().st_ino == before
    write_map(path, {"a": "1"})
    assert path.read_text() == "a 1\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A missing directory will not come by itself; other failures may pass. The old content stays."""
    with pytest.raises(PermanentError, match=r"cannot write .*/none/x: No such file"):
        write_whole(tmp_path / "none" / "x", "")
    (tmp_path / "directory").mkdir()
    with pytest.raises(TransientError, match="cannot write"):
        write_whole(tmp_path / "directory", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


def test_missing_map_files_are_created_and_others_are_left(tmp_path: Path) -> None:
    """HAProxy does not start without them."""
    paths = own_paths(tmp_path)
    paths.gate(app().name).write_text("cs90 open\n")
    HaproxySocket(app(), paths).ensure_maps()
    assert [path.read_text() for path in paths.maps(app().name)] == ["", "", "cs90 open\n"]


@pytest.mark.real
@pytest.mark.parametrize("options", [ProxyOptions(maxconn=500), FULL])
@pytest.mark.parametrize("hosts", [(), ("a.example", "b.example")])
async def test_haproxy_takes_it_without_a_warning(
    haproxy_dir: Path, options: ProxyOptions, hosts: tuple[str, ...]
) -> None:
    """Shortest and longest form."""
    paths = own_paths(haproxy_dir)
    HaproxySocket(app(), paths).ensure_maps()
    # Without the state file HAProxy warns, and goes on.
    paths.state_file.write_text("1\n# be_id be_name\n")
    text = render(app(hosts=hosts, health_path="/h?a=1&b=%20~$x"), paths, options)
    assert await check(text) == "Configuration file is valid"


@pytest.mark.real
async def test_what_haproxy_refuses_is_told_in_its_words(haproxy_dir: Path) -> None:
    """Missing map files, a broken text, no such program."""
    text = render(app(), own_paths(haproxy_dir), ProxyOptions(maxconn=500))
    with pytest.raises(PermanentError, match=r"failed to open pattern file <.*/cs90-gate.map>"):
        await check(text)
    with pytest.raises(PermanentError, match=r"parsing \[haproxy.cfg:1\].*unknown keyword 'nonsense'"):
        await check("nonsense\n")
    with pytest.raises(PermanentError, match="cannot run /nonexistent/haproxy: No such file"):
        await check(text, binary="/nonexistent/haproxy")

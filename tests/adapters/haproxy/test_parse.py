"""The parsers of HAProxy's answers, on answers recorded from HAProxy 2.6.12."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.adapters.haproxy.files import holds, read_map, write_map
from agent.adapters.haproxy.maps import argument, difference, map_commands
from agent.adapters.haproxy.parse import (
    SavedState,
    admin_state,
    parse_info,
    parse_map,
    parse_proc,
    parse_server_states,
    parse_stat,
    read_server,
    require_empty,
    require_new_address,
    split_replies,
)
from agent.core.host.observed import Worker
from agent.core.model.errors import HaproxyRefusedError, HaproxyUnavailableError
from agent.core.model.states import AdminState

INFO = "Name: HAProxy\nPid: 16951\nUptime_sec: 12\nStart_time_sec: 1795390517\nStopping: 0\ndescription: a: b"
STATES = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_port
3 cs90 1 blue 127.0.0.11 2 12 1 1 8080
3 cs90 2 green 127.0.0.12 0 5 1 1 8080"""
STAT = """# pxname,svname,qcur,scur,status,check_status,check_code,lastsess,last_chk,check_desc,
cs90,blue,1,3,DRAIN,* L7OK,200,7,,Layer7 check passed,
cs90,green,0,0,DOWN,L7STS,500,-1,"HTTP status ""500"", no",Layer7 wrong status,
cs90,BACKEND,0,3,UP,,,7,,,"""
PROC = """#<PID>          <type>          <reloads>       <uptime>        <version>
1162            master          2               0d00h02m07s     2.6.12-1+deb12u4
# workers
1271            worker          0               0d00h00m00s     2.6.12-1+deb12u4
# old workers
1233            worker          1               0d00h00m43s     2.6.12-1+deb12u4
1244            worker          2               0d00h00m50s     2.6.12-1+deb12u4
# programs
"""


def test_info_tells_who_answered() -> None:
    """Process, start, age and whether it is an old worker."""
    info = parse_info(INFO)
    assert (info.worker, info.uptime_s, info.is_stopping) == (Worker(16951, 1795390517), 12.0, False)
    assert parse_info(INFO.replace("Stopping: 0", "Stopping: 1")).is_stopping


def test_states_are_found_by_backend_and_server() -> None:
    """By header name; the mask decides, not its being zero."""
    states = parse_server_states(STATES)
    assert states["cs90", "blue"].admin is AdminState.DRAIN
    assert states["cs90", "green"] == SavedState(admin_mask=5, op_state=0, target=("127.0.0.12", 8080))
    assert states["cs90", "blue"].durable == (8, 2)


@pytest.mark.parametrize(
    ("mask", "state"),
    [
        *((mask, "ready") for mask in (0, 4, 0x40)),
        *((mask, "drain") for mask in (8, 12, 0x10)),
        *((mask, "maint") for mask in (1, 2, 5, 9, 0x20)),
    ],
)
def test_the_admin_state_is_a_mask(mask: int, state: str) -> None:
    """Bit 4 is only a memory; maint wins over drain."""
    assert admin_state(mask) is AdminState(state)


def test_a_server_is_read_from_both_answers() -> None:
    """A running check's mark is stripped; a slot never used counts from the worker's start."""
    rows, states = parse_stat(STAT), parse_server_states(STATES)
    assert set(rows) == {"blue", "green"}
    blue = read_server(rows["blue"], states["cs90", "blue"], 12.0)
    assert (blue.status, blue.check, blue.is_known_good) == ("DRAIN", "L7OK", True)
    assert (blue.open_requests, blue.queued, blue.last_request_age_s) == (3, 1, 7.0)
    green = read_server(rows["green"], states["cs90", "green"], 12.0)
    assert (green.admin, green.last_request_age_s) == (AdminState.MAINT, 12.0)
    assert green.check_detail == 'Layer7 wrong status: HTTP status "500", no (500)'


def test_map_entries_keep_order_and_doubles() -> None:
    """A value may hold blanks; an empty map has none."""
    assert parse_map("0x55d1 a b\n0x55d2 a c d") == (("a", "b"), ("a", "c d"))
    assert parse_map("") == ()


def test_processes_are_told_apart() -> None:
    """Master and programs are no workers; before any reload there is no list of old ones to miss."""
    found = parse_proc(PROC)
    assert (found.workers, found.old_workers) == ((1271,), (1233, 1244))
    assert parse_proc(PROC.partition("# old")[0]).old_workers == ()


def test_replies_are_split_at_empty_lines() -> None:
    """An empty reply is a reply."""
    assert split_replies("a\nb\n\n\nc\n\n", 3) == ("a\nb", "", "c")


@pytest.mark.parametrize("text", ["", "a\n", "a\n\nb\n", "a\n\n\n\n"])
def test_a_cut_answer_is_no_answer(text: str) -> None:
    """A worker that ended in the middle: look again."""
    with pytest.raises(HaproxyUnavailableError):
        split_replies(text, 2)


@pytest.mark.parametrize("parser", [parse_info, parse_server_states, parse_stat, parse_map, parse_proc])
@pytest.mark.parametrize("text", ["No such backend.", "Unknown command: 'x'\nhelp", "Permission denied"])
def test_words_in_place_of_an_answer_are_passed_on(parser: object, text: str) -> None:
    """The operator reads what HAProxy said."""
    assert callable(parser)
    with pytest.raises(HaproxyRefusedError, match=text[:12]):
        parser(text)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_breaks_a_parser(text: str) -> None:
    """They refuse; nothing else is raised, whatever comes."""
    for parse in (parse_info, parse_server_states, parse_stat, parse_map, parse_proc):
        try:
            parse(text)
        except HaproxyRefusedError:
            continue


@pytest.mark.parametrize("damaged", [STATES.replace("srv_name", "name"), STATES + " more", "2\n# be_name\n"])
def test_an_unknown_form_of_states_is_refused(damaged: str) -> None:
    """Another format version, or other columns."""
    with pytest.raises(HaproxyRefusedError):
        parse_server_states(damaged)


def test_a_server_without_a_column_is_refused() -> None:
    """Rather than guessed."""
    row = {key: value for key, value in parse_stat(STAT)["blue"].items() if key != "scur"}
    with pytest.raises(HaproxyRefusedError, match="show stat"):
        read_server(row, SavedState(0, 2, ("127.0.0.11", 8080)), 1.0)


def test_any_words_after_a_change_are_a_refusal() -> None:
    """There is no error code to go by."""
    require_empty("set server a/b state ready", "\n")
    with pytest.raises(HaproxyRefusedError, match=r"refused 'del map f k': 'Key not found.'"):
        require_empty("del map f k", "Key not found.\n")


@pytest.mark.parametrize(
    "reply",
    ["port changed from '1' to '2' by 'stats socket command'", "no need to change the addr", "nothing changed"],
)
def test_a_changed_address_has_words_of_its_own(reply: str) -> None:
    """They are no refusal; others are."""
    require_new_address("set server a/b addr 127.0.0.1 port 2", reply)
    with pytest.raises(HaproxyRefusedError, match="Invalid addr"):
        require_new_address("set server a/b addr foo", "Invalid addr family")


ENTRIES = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=6)
WANTED = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xyz"), max_size=4)


def perform(found: list[tuple[str, str]], commands: list[str]) -> list[tuple[str, str]]:
    """Do what HAProxy does with map commands."""
    entries = list(found)
    for command in commands:
        verb, _, _, key, *value = command.split()
        assert verb == "add" or key in dict(entries), "HAProxy would not find the key"
        if verb == "add":
            entries.append((key, value[0]))
        elif verb == "del":
            entries = [entry for entry in entries if entry[0] != key]
        else:
            entries = [(key, value[0]) if entry[0] == key else entry for entry in entries]
    return entries


@settings(deadline=None)
@given(ENTRIES, WANTED)
def test_map_commands_make_a_map_hold_what_is_wanted(found: list[tuple[str, str]], wanted: dict[str, str]) -> None:
    """From anything; and nothing is sent when it holds already."""
    commands = map_commands(Path("/f"), found, wanted)
    assert holds(perform(found, commands), wanted)
    assert holds(found, wanted) == (not commands)


@settings(deadline=None)
@given(ENTRIES, WANTED)
def test_a_key_never_leads_the_wrong_way_while_a_map_is_mended(
    found: list[tuple[str, str]], wanted: dict[str, str]
) -> None:
    """Wrong entries go before any is added; what is right and single stays throughout."""
    wrong, missing = difference(found, wanted)
    rest = [entry for entry in found if entry[0] not in wrong]
    assert all(wanted.get(key) == value for key, value in rest)
    assert holds([*rest, *((key, wanted[key]) for key in missing)], wanted)


@pytest.mark.parametrize("key", ["", "a b", "a;b", "a\nb", "a\\b", "a'b"])
def test_a_foreign_key_is_never_put_in_a_command(key: str) -> None:
    """It could hold commands of its own."""
    with pytest.raises(HaproxyRefusedError, match="did not write"):
        argument(key)


def test_map_files_are_read_as_haproxy_reads_them(tmp_path: Path) -> None:
    """Comments and empty lines are skipped, blanks around trimmed; a missing file is no empty one."""
    path = tmp_path / "x.map"
    assert read_map(path) is None
    path.write_text("# comment\n\n  a   1 \nb 2\n")
    assert read_map(path) == (("a", "1"), ("b", "2"))
    write_map(path, {})
    assert read_map(path) == ()

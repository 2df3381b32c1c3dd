"""The run spec: refused by name where wrong, secret where secret, and the same release for the same content."""

import pytest
from pydantic import ValidationError

from agent.core.model.release import Release, pin_of
from agent.core.model.spec import RunSpec, release_id
from tests.sim.host.docker_model import digest_of

DIGEST = digest_of("app:a")


def test_unknown_fields_are_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="memmory"):
        RunSpec.model_validate({"memmory": "64m"})
    with pytest.raises(ValidationError, match=r"probe\.url"):
        RunSpec.model_validate({"probe": {"url": "/"}})


@pytest.mark.parametrize(
    "field",
    [
        {"env": {"1X": "y"}},
        {"env_files": ["relative"]},
        {"volumes": ["/a"]},
        {"memory": "5m"},
        {"memory": "lots"},
        {"cpus": 0},
        {"stop_signal": "TERM;"},
        {"stop_grace_period": "2h"},
        {"probe": {"path": "no-slash"}},
        {"probe": {"status": 99}},
        {"labels": {"tidegate.app": "x"}},
        {"extra_hosts": ["x"]},
        {"user": "a b"},
        {"cap_add": ["net admin"]},
        {"log": {"driver": "paper"}},
    ],
    ids=str,
)
def test_values_that_cannot_be_run_are_refused(field: dict[str, object]) -> None:
    name = next(iter(field))
    with pytest.raises(ValidationError, match=name):
        RunSpec.model_validate(field)


def test_a_full_spec_is_taken() -> None:
    spec = RunSpec.model_validate(
        {
            "env": {"A": "1"},
            "volumes": ["/srv:/data:ro", "cache:/var/cache"],
            "memory": "512m",
            "cpus": 1.5,
            "stop_signal": "SIGWINCH",
            "labels": {"team": "x"},
            "extra_hosts": ["db:10.0.0.1", "me:host-gateway"],
            "user": "www-data:www-data",
            "cap_drop": ["ALL"],
        }
    )
    assert spec.memory_bytes == 512 * 1024**2
    assert RunSpec().memory_bytes is None


def test_secrets_show_nowhere_but_where_they_are_revealed() -> None:
    """Neither in text, nor in dumps of any kind, nor in the message of a refusal."""
    spec = RunSpec.model_validate({"env": {"TOKEN": "hunter2"}})
    for shown in (repr(spec), str(spec), f"{spec}", spec.model_dump_json(), str(spec.model_dump())):
        assert "hunter2" not in shown
        assert "TOKEN" in shown
    assert spec.revealed()["env"] == {"TOKEN": "hunter2"}


def test_a_revealed_spec_reads_back_as_itself() -> None:
    spec = RunSpec.model_validate({"env": {"TOKEN": "hunter2"}, "memory": "64m", "stop_grace_period": "1m"})
    assert RunSpec.model_validate(spec.revealed()) == spec


def test_a_release_is_named_by_its_content() -> None:
    """Equal content in any order of writing, equal name; a changed secret, digest or option, another."""
    one = RunSpec.model_validate({"env": {"A": "1", "B": "2"}})
    other_order = RunSpec.model_validate({"env": {"B": "2", "A": "1"}})
    assert release_id(DIGEST, one) == release_id(DIGEST, other_order)
    others = [RunSpec.model_validate({"env": {"A": "1", "B": "3"}}), RunSpec(memory="64m"), RunSpec()]
    names = {release_id(DIGEST, spec) for spec in [one, *others]} | {release_id(digest_of("app:b"), one)}
    assert len(names) == 5


def test_the_name_of_the_empty_spec_is_the_same_in_every_build() -> None:
    """A change of it renames every release in the field: each host would run a new container."""
    assert release_id(DIGEST, RunSpec()) == "9c3c72885936"


def test_the_generation_makes_another_pin_of_the_same_release() -> None:
    """A release that was taken back and staged again lets its old holders in only when activated."""
    first, second = (Release("app:a", DIGEST, RunSpec(), generation) for generation in (1, 2))  # type: ignore[arg-type]
    assert first.id == second.id
    assert first.pin != second.pin
    assert first.pin == pin_of(first.id, 1)

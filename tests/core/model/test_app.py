"""An app's settings."""

import pytest
from pydantic import ValidationError

from agent.core.model.app import App, DeployTimings
from agent.core.model.names import SlotName


def test_the_slots_have_fixed_addresses_in_the_subnet() -> None:
    app = App.model_validate({"name": "cs90", "subnet": "10.9.0.0/24"})
    assert [str(app.address(slot)) for slot in SlotName] == ["10.9.0.11", "10.9.0.12"]
    assert str(app.gateway) == "10.9.0.1"
    assert app.network_name == "tidegate-cs90"


def test_a_small_subnet_and_own_addresses_and_network_are_taken() -> None:
    app = App.model_validate({"name": "x", "subnet": "10.9.0.0/29", "network": "mine"})
    assert [str(app.address(slot)) for slot in SlotName] == ["10.9.0.3", "10.9.0.4"]
    assert app.network_name == "mine"
    own = App.model_validate({"name": "x", "subnet": "10.9.0.0/24", "blue": "10.9.0.7", "green": "10.9.0.8"})
    assert str(own.address(SlotName.GREEN)) == "10.9.0.8"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"name": "a-status"}, "name"),
        ({"colour": "x"}, "colour"),
        ({"subnet": "10.9.0.0/30"}, "subnet"),
        ({"blue": "10.1.1.1"}, "blue"),
        ({"green": "172.30.80.1"}, "green"),
        ({"blue": "172.30.80.9", "green": "172.30.80.9"}, "different"),
        ({"health_path": "health"}, "health_path"),
        ({"health_path": "/a b"}, "health_path"),
        ({"cookie": "a b"}, "cookie"),
        ({"port": 0}, "port"),
        ({"knobs": {"bake_time": "2h"}}, "bake_time"),
        ({"knobs": {"visit_idle": 0}}, "visit_idle"),
        ({"knobs": {"speed": 1}}, "speed"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        App.model_validate({"name": "cs90"} | settings)


def test_the_default_knobs_are_those_of_the_design() -> None:
    timings = DeployTimings()
    assert (timings.healthy_deadline, timings.min_healthy_time, timings.bake_time) == (300, 10, 300)
    assert (timings.drain_timeout, timings.visit_idle, timings.stop_grace_period) == (1800, 1800, 10)

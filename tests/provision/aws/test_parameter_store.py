"""The stack's secrets, in moto's parameters."""

from typing import Any

import pytest

from agent.provision.aws import parameter_store as names
from agent.provision.aws.certificates import Bundle
from agent.provision.aws.parameter_store import ParameterStore
from infra.errors import AwsError
from tests.provision.aws.machines import BUNDLE

pytestmark = [pytest.mark.infra, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("aws")]


def test_the_first_to_choose_a_secret_wins_for_all(parameter_store: ParameterStore) -> None:
    assert parameter_store.claim(names.GOSSIP_KEY, lambda: "one") == "one"
    assert parameter_store.claim(names.GOSSIP_KEY, lambda: "two") == "one"


def test_of_two_that_choose_at_the_same_time_one_wins(parameter_store: ParameterStore) -> None:
    def slow() -> str:
        # Between looking and writing, another machine writes.
        parameter_store.claim(names.GOSSIP_KEY, lambda: "faster")
        return "slower"

    assert parameter_store.claim(names.GOSSIP_KEY, slow) == "faster"


def test_secrets_are_encrypted(parameter_store: ParameterStore, ssm: Any) -> None:
    parameter_store.claim(names.NODE_TOKEN, names.new_token)
    found = ssm.get_parameter(Name=f"/tidegate/{parameter_store.stack}/{names.NODE_TOKEN}")["Parameter"]
    assert found["Type"] == "SecureString"


def test_a_secret_that_never_comes_ends_the_boot_with_its_name(parameter_store: ParameterStore) -> None:
    with pytest.raises(AwsError, match=r"/web/node-token was not written within 600 s"):
        parameter_store.wait(names.NODE_TOKEN, deadline_s=600)


def test_a_bundle_fits_into_a_parameter_and_comes_back(parameter_store: ParameterStore) -> None:
    assert Bundle.unpack(parameter_store.claim(names.CERTIFICATE, BUNDLE.pack)) == BUNDLE

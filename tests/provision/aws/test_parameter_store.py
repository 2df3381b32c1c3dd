"""The stack's secrets, in moto's parameters."""

from typing import Any

import pytest

from agent.provision.aws import parameter_store as names
from agent.provision.aws.certificates import Bundle
from agent.provision.aws.parameter_store import Vault
from infra.errors import AwsError
from tests.provision.aws.machines import BUNDLE

pytestmark = [pytest.mark.infra, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("aws")]


def test_the_first_to_choose_a_secret_wins_for_all(vault: Vault) -> None:
    assert vault.claim(names.GOSSIP_KEY, lambda: "one") == "one"
    assert vault.claim(names.GOSSIP_KEY, lambda: "two") == "one"


def test_of_two_that_choose_at_the_same_time_one_wins(vault: Vault) -> None:
    def slow() -> str:
        # Between looking and writing, another machine writes.
        vault.claim(names.GOSSIP_KEY, lambda: "faster")
        return "slower"

    assert vault.claim(names.GOSSIP_KEY, slow) == "faster"


def test_secrets_are_encrypted(vault: Vault, ssm: Any) -> None:
    vault.claim(names.NODE_TOKEN, names.new_token)
    found = ssm.get_parameter(Name=f"/tidegate/{vault.stack}/{names.NODE_TOKEN}")["Parameter"]
    assert found["Type"] == "SecureString"


def test_a_secret_that_never_comes_ends_the_boot_with_its_name(vault: Vault) -> None:
    with pytest.raises(AwsError, match=r"/web/node-token was not written within 600 s"):
        vault.wait(names.NODE_TOKEN, deadline_s=600)


def test_a_bundle_fits_into_a_parameter_and_comes_back(vault: Vault) -> None:
    assert Bundle.unpack(vault.claim(names.CERTIFICATE, BUNDLE.pack)) == BUNDLE

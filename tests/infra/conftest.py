"""The account that moto plays, for the tests here."""

from tests.infra.account import aws, credentials

__all__ = ["aws", "credentials"]

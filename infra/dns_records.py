"""
The names of Consul servers: ``consul.<availability zone>.<domain>`` is a CNAME of that zone's server.

Each server writes its name at boot and takes it back when it leaves; ``dns sync`` does the same from a laptop. All
three compute one thing, the changes from what is to what should be:

==========================================  ====================================================
in a zone                                   its name
==========================================  ====================================================
one server runs                             names it
several run                                 names the one launched last; the others leave it alone
none runs                                   is removed
==========================================  ====================================================

Names of other kinds are never touched. A delete holds the value that was read: if another server has taken the name
meanwhile AWS refuses, and everything is computed anew.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from infra.aws import translate_aws_errors
from infra.errors import AwsError

TTL_S = 30
ROUNDS = 4
"""How often everything is computed anew when somebody else writes meanwhile."""


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """A Consul server that runs."""

    launched: datetime
    instance: str
    zone: str
    host: str
    """Its private DNS name."""


@dataclass(frozen=True, slots=True)
class Record:
    """A CNAME."""

    name: str
    """Without the last dot."""
    value: str
    ttl_s: int = TTL_S


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the zone."""

    action: Literal["UPSERT", "DELETE"]
    record: Record
    was: str = ""
    """What the name stood for before."""

    def __str__(self) -> str:
        if self.action == "DELETE":
            return f"- {self.record.name} (was {self.record.value})"
        before = f" (was {self.was})" if self.was else ""
        return f"{'~' if self.was else '+'} {self.record.name} -> {self.record.value}{before}"


Records = Mapping[str, Record]


def desired(servers: Iterable[Server], domain: str) -> dict[str, Record]:
    """Return what the names should be: in each zone, the server launched last."""
    newest: dict[str, Server] = {}
    for server in sorted(servers):
        newest[server.zone] = server
    names = {zone: f"consul.{zone}.{domain}" for zone in newest}
    return {names[zone]: Record(names[zone], server.host) for zone, server in sorted(newest.items())}


def changes(wanted: Records, actual: Records, *, zone: str | None = None) -> tuple[Change, ...]:
    """
    Return what leads from *actual* to *wanted*, in order of names.

    Args:
        zone: only this availability zone's name; a server writes no other's.
    """
    made: list[Change] = []
    for name in sorted({*wanted, *actual}):
        if zone is not None and not name.startswith(f"consul.{zone}."):
            continue
        is_, should = actual.get(name), wanted.get(name)
        if should is None and is_ is not None:
            made.append(Change("DELETE", is_))
        elif should is not None and should != is_:
            made.append(Change("UPSERT", should, "" if is_ is None else is_.value))
    return tuple(made)


def servers(ec2: Any, stack: str) -> tuple[Server, ...]:
    """
    Ask EC2 for the Consul servers of *stack* that run.

    Raises:
        AwsError: EC2 refuses or does not answer.
    """
    filters = [
        {"Name": "tag:Stack", "Values": [stack]},
        {"Name": "tag:Name", "Values": ["consul-server"]},
        {"Name": "instance-state-name", "Values": ["running"]},
    ]
    with translate_aws_errors("list the Consul servers"):
        pages = list(ec2.get_paginator("describe_instances").paginate(Filters=filters))
    found = (each for page in pages for group in page["Reservations"] for each in group["Instances"])
    return tuple(sorted(_server(each) for each in found))


def _server(found: Mapping[str, Any]) -> Server:
    launched = found["LaunchTime"]
    return Server(
        launched=launched if launched.tzinfo else launched.replace(tzinfo=UTC),
        instance=found["InstanceId"],
        zone=found["Placement"]["AvailabilityZone"],
        host=found["PrivateDnsName"],
    )


def actual(route53: Any, zone_id: str, domain: str) -> dict[str, Record]:
    """
    Ask Route53 for the names that are there.

    Raises:
        AwsError: Route53 refuses or does not answer.
    """
    ours = re.compile(rf"consul\.[a-z0-9-]+\.{re.escape(domain)}")
    with translate_aws_errors("list the DNS records"):
        pages = list(route53.get_paginator("list_resource_record_sets").paginate(HostedZoneId=zone_id))
    found = {}
    for each in (each for page in pages for each in page["ResourceRecordSets"]):
        name = each["Name"].rstrip(".")
        if each["Type"] == "CNAME" and ours.fullmatch(name) and "SetIdentifier" not in each:
            found[name] = Record(name, each["ResourceRecords"][0]["Value"].rstrip("."), each["TTL"])
    return found


def apply(route53: Any, zone_id: str, made: Iterable[Change]) -> None:
    """
    Write *made* in one batch: all or nothing.

    Raises:
        StaleError: a name to delete has another value by now.
        AwsError: Route53 refuses or does not answer.
    """
    batch = [{"Action": change.action, "ResourceRecordSet": _document(change.record)} for change in made]
    if not batch:
        return
    from botocore.exceptions import ClientError  # noqa: PLC0415 - heavy

    with translate_aws_errors("write the DNS records"):
        try:
            route53.change_resource_record_sets(HostedZoneId=zone_id, ChangeBatch={"Changes": batch})
        except ClientError as exc:
            if exc.response["Error"]["Code"] in {"InvalidChangeBatch", "InvalidInput"}:
                raise StaleError(f"cannot write the DNS records: {exc.response['Error']['Message']}") from exc
            raise


class StaleError(AwsError):
    """Somebody else wrote the name since it was read."""


def _document(record: Record) -> dict[str, Any]:
    return {
        "Name": record.name,
        "Type": "CNAME",
        "TTL": record.ttl_s,
        "ResourceRecords": [{"Value": record.value}],
    }


@dataclass(frozen=True, slots=True)
class Zone:
    """The private zone of a stack, and who may be named in it."""

    route53: Any
    ec2: Any
    zone_id: str
    domain: str
    stack: str

    def plan(self, *, me: Server | None = None, leaving: str = "", only: str | None = None) -> tuple[Change, ...]:
        """
        Read both sides, and return what is to be changed.

        Args:
            me: a server that EC2 may not list as running yet.
            leaving: instance that is not to be named any more.
            only: the availability zone whose name may be changed.

        Raises:
            AwsError: AWS refuses or does not answer.
        """
        found = {server.instance: server for server in servers(self.ec2, self.stack)}
        if me is not None:
            found.setdefault(me.instance, me)
        found.pop(leaving, None)
        wanted = desired(found.values(), self.domain)
        return changes(wanted, actual(self.route53, self.zone_id, self.domain), zone=only)

    def sync(self, *, me: Server | None = None, leaving: str = "", only: str | None = None) -> tuple[Change, ...]:
        """
        Bring the names up to date, and return what was changed.

        Raises:
            AwsError: AWS refuses or does not answer, or others keep writing the same names.
        """
        for attempt in range(ROUNDS):
            made = self.plan(me=me, leaving=leaving, only=only)
            try:
                apply(self.route53, self.zone_id, made)
            except StaleError:
                if attempt == ROUNDS - 1:
                    raise
            else:
                return made
        raise AssertionError("unreachable")

    def sweep(self) -> tuple[Change, ...]:
        """
        Remove all names, so that the zone can be deleted.

        Raises:
            AwsError: AWS refuses or does not answer.
        """
        made = changes({}, actual(self.route53, self.zone_id, self.domain))
        apply(self.route53, self.zone_id, made)
        return made

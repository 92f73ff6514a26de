"""DNS at Amazon Route 53: simple and weighted records, with values or as an alias.

A change is one batch that deletes the exact record that was read and creates the new one, so that Route 53 itself
refuses it when somebody was faster (compare and swap): `UPSERT` would overwrite. A batch is made as a whole or not at
all. It counts when Route 53 says INSYNC, which is when all of its name servers have it; these are asked as well.

Source: Route 53 API reference, ChangeResourceRecordSets and GetChange.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from recovery.adapters.authoritative import Answer, Server, addresses, ask_all
from recovery.adapters.aws import AwsAccess, AwsCalls, words_of
from recovery.adapters.route53_sets import RecordSet, chosen, inside, plain_name, rdata, read, written
from recovery.domain.dns_records import same, title, words
from recovery.domain.plan import DnsBefore
from recovery.errors import BadInput, Contended, NotFound, Unreachable

if TYPE_CHECKING:
    from mypy_boto3_route53 import Route53Client
else:
    Route53Client = object

Change = tuple[DnsBefore, DnsBefore]

DNS_PORT = 53
_WAS_EDITED = ("but it was not found", "but the values provided do not match", "but it already exists")


@dataclass(frozen=True)
class _Place:
    """A hosted zone as Route 53 knows it. ``name_servers`` is empty for a private one."""

    name: str
    private: bool
    name_servers: tuple[str, ...]


class Route53Zone:
    """``recovery.ports.dns.DnsZone`` for one hosted zone.

    Args:
        zone: the zone's name; ``zone_id``: its id. Both are compared once with what Route 53 says.
        check_answers: whether the zone's name servers are asked after a change.
        name_servers: host and port of those to ask, instead of the zone's delegation set.
        settle_within: how long ``settle`` waits for INSYNC, and for the right answers.
        poll: between two questions; an account may ask five times a second in all.
        patience: how long a throttled call is made again.
    """

    def __init__(
        self,
        zone: str,
        zone_id: str,
        access: AwsAccess,
        *,
        check_answers: bool = True,
        name_servers: Sequence[Server] | None = None,
        settle_within: timedelta = timedelta(seconds=60),
        poll: timedelta = timedelta(seconds=1),
        patience: timedelta = timedelta(seconds=20),
    ) -> None:
        self._zone = plain_name(zone)
        self._id = zone_id
        self._aws: AwsCalls[Route53Client] = AwsCalls("route53", access, patience)
        self._check_answers = check_answers
        self._name_servers = None if name_servers is None else list(name_servers)
        self._settle_within = settle_within.total_seconds()
        self._poll = poll.total_seconds()
        self._found: _Place | None = None
        self._unsettled: dict[str, None] = {}  # ids of changes that were PENDING when we last looked

    async def close(self) -> None:
        await self._aws.close()

    async def read(self, name: str, type: str, zone: str, set_identifier: str | None = None) -> DnsBefore:
        """The record as Route 53 has it.

        Raises:
            BadInput: the name lies outside the zone, is a CNAME, or is routed in another way than is asked for.
            NotFound: there is no such hosted zone.
            Unreachable: Route 53 did not answer, or throttled us for too long.
            Refused: the credentials do not permit it.
        """
        await self._place()
        if not inside(name, self._zone) or plain_name(zone) != self._zone:
            raise BadInput(f"Record {name} of zone {zone} does not lie in the hosted zone {self._id} ({self._zone})")
        found = chosen(await self._sets(name), type, name, set_identifier)
        if found is None:
            return DnsBefore(name=name, type=type.upper(), ttl=0, values=[], zone=zone, set_identifier=set_identifier)
        return read(found, name, zone)

    async def replace(self, changes: list[Change]) -> None:
        """Replaces each record (exactly as read before) by its new form, all in one batch.

        Repeating a change that was made already succeeds.

        Raises:
            Contended: somebody edited one of them meanwhile; nothing was changed.
            Unreachable: Route 53 did not answer; the change may have been made: read again, or repeat.
            Refused: the credentials do not permit it.
            BadInput: Route 53 says that a record makes no sense, in its own words.
        """
        await self._place()
        batch = [part for before, after in changes for part in _parts(before, after)]
        if not batch:
            return
        try:
            self._note(await self._change(batch))
        except ClientError as error:
            await self._judge(changes, words_of(error))
        except Unreachable:
            # The batch may have arrived although its answer did not.
            if await self._differing(after for _, after in changes):
                raise

    async def settle(self, records: list[DnsBefore]) -> list[str]:
        """Waits for INSYNC, then until the zone's name servers that can be reached answer with these records.

        Raises:
            Unreachable: not within ``settle_within``.
        """
        deadline = time.monotonic() + self._settle_within
        for change in list(self._unsettled):
            await self._until_in_sync(change, deadline)
        if not self._check_answers:
            return []
        ours = {(plain_name(record.name), record.type.upper(), record.set_identifier) for record in records}
        notes = [
            f"{title(other)} {other.type} has weight {other.weight} and answers clients, too: {words(other)}"
            for record in records
            if record.set_identifier is not None
            for other in await self._others(record)
            if other.weight and (plain_name(other.name), other.type, other.set_identifier) not in ours
        ]
        servers = await self._servers()
        if not servers:
            return [*notes, f"zone {self._zone} is private or names no server: its answers were not looked at"]
        return notes + await self._until_answered(records, servers, deadline)

    # The zone.

    async def _place(self) -> _Place:
        if self._found is None:
            try:
                answer = await self._aws.run(
                    lambda client: client.get_hosted_zone(Id=self._id),
                    f"read hosted zone {self._id}",
                    leave=["NoSuchHostedZone"],
                )
            except ClientError:
                raise NotFound(
                    f"there is no hosted zone {self._id} in this account: set the group's dns.zone_id, which Route 53 "
                    f"shows beside {self._zone}"
                ) from None
            hosted = answer["HostedZone"]
            if plain_name(hosted["Name"]) != self._zone:
                raise BadInput(
                    f"hosted zone {self._id} is that of {plain_name(hosted['Name'])}, not of {self._zone}: "
                    "correct dns.zone or dns.zone_id of the group"
                )
            private = bool(hosted.get("Config", {}).get("PrivateZone", False))
            named = answer.get("DelegationSet", {}).get("NameServers", [])
            self._found = _Place(self._zone, private, () if private else tuple(named))
        return self._found

    async def _sets(self, name: str) -> list[RecordSet]:
        """All sets of that one name. The API lists a zone in an order of its own, from a name on."""
        found: list[RecordSet] = []
        start: dict[str, Any] = {"StartRecordName": name}
        while True:
            request = {"HostedZoneId": self._id, **start}
            answer: Any = await self._aws.run(
                lambda client, request=request: client.list_resource_record_sets(**request),  # type: ignore[misc]
                f"read {name}",
            )
            page = answer["ResourceRecordSets"]
            found += [entry for entry in page if plain_name(entry["Name"]) == plain_name(name)]
            further = answer.get("IsTruncated") and plain_name(answer.get("NextRecordName", "")) == plain_name(name)
            if not further:
                return found
            start = {"StartRecordName": answer["NextRecordName"], "StartRecordType": answer["NextRecordType"]}
            if answer.get("NextRecordIdentifier"):
                start["StartRecordIdentifier"] = answer["NextRecordIdentifier"]

    # Changes.

    async def _change(self, batch: list[Any]) -> str:
        answer = await self._aws.run(
            lambda client: client.change_resource_record_sets(
                HostedZoneId=self._id, ChangeBatch={"Comment": "recovery-plans", "Changes": batch}
            ),
            f"change {len(batch)} records of {self._zone}",
            repeat=False,
            leave=["InvalidChangeBatch"],
        )
        return str(answer["ChangeInfo"]["Id"]).rpartition("/")[2]

    def _note(self, change: str) -> None:
        self._unsettled[change] = None
        while len(self._unsettled) > 100:
            del self._unsettled[next(iter(self._unsettled))]

    async def _judge(self, changes: list[Change], said: str) -> None:
        """A refused batch: our own earlier attempt's trace, somebody's edit, or nonsense. The state decides."""
        if not await self._differing(after for _, after in changes):
            return
        edited = await self._differing(before for before, _ in changes)
        if edited or any(mark in said for mark in _WAS_EDITED):
            names = ", ".join(f"{title(before)} {before.type}" for before, _ in changes)
            now = "; ".join(f"{title(record)} {record.type} is {words(record)}" for record in edited)
            raise Contended(
                f"Somebody changed {names} in zone {self._zone} after it was read; nothing was changed. "
                f"Now: {now or said}."
            )
        raise BadInput(f"Route 53 refused the change of zone {self._zone}: {said}")

    async def _differing(self, wanted: Iterable[DnsBefore]) -> list[DnsBefore]:
        """Those records, as they are now, that are not as wanted."""
        found = []
        for record in wanted:
            now = await self.read(record.name, record.type, record.zone, record.set_identifier)
            if not _exactly(now, record):
                found.append(now)
        return found

    # Waiting.

    async def _until_in_sync(self, change: str, deadline: float) -> None:
        while True:
            try:
                answer = await self._aws.run(
                    lambda client: client.get_change(Id=change), f"follow change {change}", leave=["NoSuchChange"]
                )
            except ClientError:
                break  # Route 53 forgets changes after a while; all of those were made
            if answer["ChangeInfo"]["Status"] == "INSYNC":
                break
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"change {change} of zone {self._zone} is accepted, and still {answer['ChangeInfo']['Status']} "
                    f"after {self._settle_within:g} s: not all name servers of Route 53 have it"
                )
            await asyncio.sleep(self._poll)
        self._unsettled.pop(change, None)

    async def _servers(self) -> list[Server]:
        if self._name_servers is not None:
            return self._name_servers
        return [(name, DNS_PORT) for name in (await self._place()).name_servers]

    async def _until_answered(self, records: list[DnsBefore], servers: list[Server], deadline: float) -> list[str]:
        expected = [(record, await self._acceptable(record)) for record in records]
        while True:
            wrong: list[str] = []
            silent: dict[Server, str] = {}
            for record, acceptable in expected:
                if acceptable is None:
                    continue
                for server, answer in (await ask_all(servers, record.name, record.type)).items():
                    if isinstance(answer, str):
                        silent[server] = answer
                    elif not _fits(record, answer, acceptable):
                        wrong.append(f"{server[0]} answers {_shown(answer)} for {record.name} {record.type}")
            if not wrong:
                notes = [f"name server {host} {why}: not looked at" for (host, _), why in silent.items()]
                return notes + [
                    f"the addresses of {record.alias.name} are not known here: what {record.name} answers was not "
                    "looked at"
                    for record, acceptable in expected
                    if acceptable is None and record.alias is not None
                ]
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"the change of zone {self._zone} is made, but after {self._settle_within:g} s {'; '.join(wrong)}"
                )
            await asyncio.sleep(self._poll)

    async def _acceptable(self, record: DnsBefore) -> Answer | None:
        """What a name server may answer; None when that cannot be told.

        Of a weighted set it is what any member with a weight holds; so a member that lost its weight is noticed.
        """
        members = [record]
        if record.set_identifier is not None:
            members += await self._others(record)
            members = [member for member in members if member.exists and member.weight] or members
        found: set[Any] = set()
        for member in members:
            values = await _values(member)
            if member.alias is not None and not values:
                return None
            found |= values
        return frozenset(found)

    async def _others(self, record: DnsBefore) -> list[DnsBefore]:
        """The other members of a weighted set."""
        members = []
        for found in await self._sets(record.name):
            if found["Type"] == record.type.upper() and found.get("SetIdentifier") != record.set_identifier:
                with contextlib.suppress(BadInput):
                    members.append(read(found, record.name, record.zone))
        return members


def _parts(before: DnsBefore, after: DnsBefore) -> list[Any]:
    """The exact old record out, the new one in. One that does not change is left alone."""
    if (plain_name(before.name), before.type.upper(), before.set_identifier) != (
        plain_name(after.name),
        after.type.upper(),
        after.set_identifier,
    ):
        raise BadInput(
            f"A change must keep name, type and set identifier: {title(before)} {before.type}, "
            f"{title(after)} {after.type}."
        )
    old, new = written(before), written(after)
    if before.exists and after.exists and old == new:
        return []
    parts = [{"Action": "DELETE", "ResourceRecordSet": old}] if before.exists else []
    return parts + ([{"Action": "CREATE", "ResourceRecordSet": new}] if after.exists else [])


def _exactly(one: DnsBefore, other: DnsBefore) -> bool:
    """As Route 53 compares: the time to live counts, too."""
    if not one.exists and not other.exists:
        return True
    return same(one, other) and one.ttl == other.ttl and one.health_check == other.health_check


async def _values(record: DnsBefore) -> Answer:
    if record.alias is not None:
        return await addresses(record.alias.name, record.type)
    return frozenset(rdata(record.type, value) for value in record.values)


def _fits(record: DnsBefore, answer: Answer, acceptable: Answer) -> bool:
    """An alias answers with some of its target's addresses, in turn; a weighted set with one member's values."""
    if record.alias is not None:
        return bool(answer & acceptable)
    if record.set_identifier is not None:
        return bool(answer) and answer <= acceptable
    return answer == acceptable


def _shown(answer: Answer) -> str:
    return " ".join(sorted(str(value) for value in answer)) or "nothing"

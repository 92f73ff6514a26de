"""DNS by dynamic update: RFC 2136 with TSIG (RFC 8945), at the zone's primary server (BIND, Knot, PowerDNS ...).

A change carries the records as they were read as its prerequisites, so the server itself refuses it when somebody
was faster (compare and swap). All records of a zone are one message: the server makes all of it or nothing.
"""

from __future__ import annotations

import asyncio
import binascii
import socket
from dataclasses import dataclass, field
from datetime import timedelta

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.tsig
import dns.update
from dns.rcode import Rcode

from recovery.domain.plan import DnsBefore
from recovery.errors import BadInput, Contended, RecoveryError, Refused, Unreachable

_PREREQUISITE_FAILED = {Rcode.NXRRSET, Rcode.YXRRSET, Rcode.NXDOMAIN, Rcode.YXDOMAIN}
_ALGORITHMS = {"hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha1", "hmac-md5"}

SETTLE_EVERY = 0.2  # seconds between two questions to the authoritative server

Change = tuple[DnsBefore, DnsBefore]


@dataclass(frozen=True)
class TsigKey:
    """The shared key that signs updates. ``secret`` in base64, as ``tsig-keygen`` prints it."""

    name: str
    secret: str = field(repr=False)
    algorithm: str = "hmac-sha256"


class Rfc2136Zone:
    """DnsZone port.

    Args:
        server: address or name of the zone's primary server (the one in the SOA record's MNAME).
        port: 53 unless given. TCP is used for everything, so that an update is never sent twice by a retransmission.
        key: signs reads and updates; None only for servers that trust addresses, which is a poor idea.
        timeout: of each exchange with the server.

    Raises:
        BadInput: the key's secret is not base64, or its algorithm is unknown.
    """

    def __init__(
        self, server: str, port: int = 53, *, key: TsigKey | None = None, timeout: timedelta = timedelta(seconds=5)
    ) -> None:
        self._server = server
        self._port = port
        self._timeout = timeout.total_seconds()
        self._key = _key(key) if key else None
        self._key_name = key.name if key else ""

    async def read(self, name: str, type: str, zone: str, set_identifier: str | None = None) -> DnsBefore:
        """The record at the authoritative server. ``values`` is empty and ``ttl`` 0 when there is none.

        Raises:
            BadInput: the name lies outside the zone, or is an alias (CNAME), which hides every other type; or a
                member of a weighted set is asked for, which only Route 53 has.
            Unreachable: the server did not answer in time, or not sensibly.
            Refused: the server is not authoritative for the zone, or does not accept the key.
        """
        if set_identifier is not None:
            raise BadInput(
                f"{name} has a set_identifier ({set_identifier}): weighted sets are Route 53's. Leave it out."
            )
        owner, _ = _inside(name, zone)
        rdtype = _rdatatype(type)
        query = dns.message.make_query(owner, rdtype)
        query.flags &= ~dns.flags.RD
        answer = await self._exchange(query, zone)
        if answer.rcode() not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            raise self._refusal(answer.rcode(), zone, "read")
        if not answer.flags & dns.flags.AA:
            raise Refused(
                f"{self._where} is not authoritative for {zone}: configure the address of the zone's primary server."
            )
        alias = answer.get_rrset(answer.answer, owner, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if alias is not None and rdtype != dns.rdatatype.CNAME:
            raise BadInput(
                f"{name} is an alias (CNAME) of {alias[0].to_text()}: configure the record with type CNAME, or name "
                f"the record that it points to. An update of its {type} would be ignored by the server."
            )
        found = answer.get_rrset(answer.answer, owner, dns.rdataclass.IN, rdtype)
        if found is None:
            return DnsBefore(name=name, type=type, ttl=0, values=[], zone=zone)
        return DnsBefore(name=name, type=type, ttl=found.ttl, values=sorted(r.to_text() for r in found), zone=zone)

    async def replace(self, changes: list[Change]) -> None:
        """Replaces each record (as read before) by its new form; an empty list of values removes it.

        All records of one zone change together. Several zones cannot: they go one after the other, and when a later
        one fails, the earlier ones are put back. Repeating a change that was made already succeeds.

        Raises:
            Contended: somebody edited one of them meanwhile; nothing was changed.
            Unreachable: the server did not answer; the change may have been made: read again, or repeat.
            Refused: key or permission is wrong.
            BadInput: a record makes no sense.
        """
        made: list[list[Change]] = []
        for zone, part in _by_zone(changes).items():
            update = _update(zone, part)  # bad input must surface before anything is sent
            try:
                await self._apply(zone, part, update)
            except (RecoveryError, asyncio.CancelledError) as error:
                await self._put_back(made, error)
                raise
            made.append(part)

    async def settle(self, records: list[DnsBefore]) -> list[str]:
        """Asks the primary server until it answers with these records, for as long as one exchange may take.

        Raises:
            Unreachable: it does not, or not yet. Its secondaries have it by NOTIFY, or when they ask next.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        while differing := await self._differing(records):
            if loop.time() > deadline:
                served = "; ".join(_words(now) for now in differing)
                raise Unreachable(f"{self._where} does not serve the change after {self._timeout:g} s: {served}.")
            await asyncio.sleep(SETTLE_EVERY)
        return []

    async def _apply(self, zone: str, changes: list[Change], update: dns.update.UpdateMessage) -> None:
        rcode = (await self._exchange(update, zone)).rcode()
        if rcode in _PREREQUISITE_FAILED:
            # A former attempt of ours may have worked although its answer was lost.
            differing = await self._differing([after for _, after in changes])
            if not differing:
                return
            raise Contended(
                f"Somebody changed {_names([before for before, _ in changes])} in zone {zone} after it was read; "
                f"nothing was changed. Now: {'; '.join(_words(now) for now in differing)}."
            )
        if rcode != Rcode.NOERROR:
            raise self._refusal(rcode, zone, "update")
        # Servers silently ignore parts of an update that make no sense to them (RFC 2136, 3.4.2.2): look.
        if differing := await self._differing([after for _, after in changes]):
            raise Contended(
                f"{self._where} took the change of zone {zone}, but serves something else: "
                f"{'; '.join(_words(now) for now in differing)}. Somebody else may be editing the zone."
            )

    async def _differing(self, wanted: list[DnsBefore]) -> list[DnsBefore]:
        """Those records, as they are now, that are not as wanted."""
        now = [await self.read(record.name, record.type, record.zone) for record in wanted]
        return [is_ for is_, want in zip(now, wanted, strict=True) if _rdataset(is_) != _rdataset(want)]

    async def _put_back(self, made: list[list[Change]], cause: BaseException) -> None:
        for part in reversed(made):
            reverse = [(after, before) for before, after in part]
            zone = part[0][0].zone
            try:
                await asyncio.shield(self._apply(zone, reverse, _update(zone, reverse)))
            except RecoveryError as error:
                names = _names([before for before, _ in part])
                cause.add_note(f"Zone {zone} was changed before and could not be put back ({names}): {error}")

    @property
    def _where(self) -> str:
        return f"DNS server {self._server}:{self._port}"

    async def _exchange(self, query: dns.message.Message, zone: str) -> dns.message.Message:
        """One question, one verified answer."""
        if self._key is not None:
            query.use_tsig(self._key)
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._ask(query)
        except (TimeoutError, dns.exception.Timeout):
            raise Unreachable(f"{self._where} did not answer within {self._timeout:g} s.") from None
        except (dns.tsig.PeerBadKey, dns.message.UnknownTSIGKey):
            raise Refused(
                f"{self._where} does not know the TSIG key {self._key_name!r}: compare the key's name and algorithm "
                f"with the server's configuration of zone {zone}."
            ) from None
        except (dns.tsig.PeerBadSignature, dns.tsig.BadSignature, dns.tsig.PeerBadTruncation, dns.tsig.BadKey):
            raise Refused(
                f"{self._where} has another secret or algorithm for the TSIG key {self._key_name!r}: compare both."
            ) from None
        except (dns.tsig.PeerBadTime, dns.tsig.BadTime):
            raise Refused(
                f"{self._where} and this machine disagree about the time by minutes, so it refuses signatures: "
                "set the clocks (NTP) on both."
            ) from None
        except (OSError, EOFError, dns.exception.DNSException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(f"{self._where} gave no usable answer: {reason}.") from error
        if self._key is not None and not answer.had_tsig:  # newer versions of dnspython raise by themselves
            raise Unreachable(
                f"{self._where} gave no usable answer: it lacks the TSIG signature, so anybody may have sent it."
            )
        return answer

    async def _ask(self, query: dns.message.Message) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._server, self._port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses[:-1]:
            try:
                return await dns.asyncquery.tcp(query, address, port=self._port)
            except ConnectionRefusedError:
                continue  # nothing was sent: the next address may be tried
        return await dns.asyncquery.tcp(query, addresses[-1], port=self._port)

    def _refusal(self, rcode: Rcode, zone: str, what: str) -> RecoveryError:
        if rcode == Rcode.REFUSED:
            who = f"the TSIG key {self._key_name!r}" if self._key else "unsigned requests"
            return Refused(f"{self._where} does not let {who} {what} zone {zone}: add it to the zone's update policy.")
        if rcode == Rcode.NOTAUTH:
            return Refused(
                f"{self._where} is not the primary server of zone {zone}, or does not accept the key "
                f"{self._key_name!r} there: check the zone's name, the server's address and the key."
            )
        if rcode == Rcode.NOTZONE:
            return Refused(f"{self._where} says that a record does not lie in zone {zone}: check names and zone.")
        if rcode == Rcode.SERVFAIL:
            return Unreachable(f"{self._where} failed at the {what} of zone {zone} (SERVFAIL): see the server's log.")
        return Refused(f"{self._where} refused the {what} of zone {zone}: {dns.rcode.to_text(rcode)}.")


def _update(zone: str, changes: list[Change]) -> dns.update.UpdateMessage:
    origin = _name(zone)
    update = dns.update.UpdateMessage(origin)
    for before, after in changes:
        owner, _ = _inside(before.name, zone)
        if (_name(after.name), after.type.upper()) != (owner, before.type.upper()):
            raise BadInput(f"A change must keep name and type: {before.name} {before.type}, {after.name} {after.type}.")
        old, new = _rdataset(before), _rdataset(after)
        # The value-dependent prerequisite: exactly these values, no more and no less (RFC 2136, 2.4.2).
        if old:
            update.present(owner, dns.rdataset.from_rdata_list(0, list(old)))
        else:
            update.absent(owner, old.rdtype)
        update.delete(owner, old.rdtype)
        if new:
            update.add(owner, new)
    return update


def _by_zone(changes: list[Change]) -> dict[str, list[Change]]:
    zones: dict[str, list[Change]] = {}
    for before, after in changes:
        zones.setdefault(before.zone.lower().rstrip("."), []).append((before, after))
    return zones


def _rdataset(record: DnsBefore) -> dns.rdataset.Rdataset:
    """Compares equal whatever the order, case and spelling of the values."""
    rdtype = _rdatatype(record.type)
    values = dns.rdataset.Rdataset(dns.rdataclass.IN, rdtype, ttl=record.ttl)
    for value in record.values:
        try:
            rdata = dns.rdata.from_text(dns.rdataclass.IN, rdtype, value, origin=dns.name.root, relativize=False)
        except (dns.exception.DNSException, ValueError) as error:
            raise BadInput(f"{record.name}: {value!r} is no value of a {record.type} record ({error}).") from None
        values.add(rdata, record.ttl)
    return values


def _inside(name: str, zone: str) -> tuple[dns.name.Name, dns.name.Name]:
    owner, origin = _name(name), _name(zone)
    if not owner.is_subdomain(origin):
        raise BadInput(f"Record {name} does not lie in zone {zone}: write its full name, for example db.{zone}.")
    return owner, origin


def _name(text: str) -> dns.name.Name:
    try:
        return dns.name.from_text(text, dns.name.root)
    except dns.exception.DNSException as error:
        raise BadInput(f"{text!r} is no DNS name: {error}") from None


def _rdatatype(text: str) -> dns.rdatatype.RdataType:
    try:
        return dns.rdatatype.from_text(text)
    except (dns.exception.DNSException, ValueError):
        raise BadInput(f"{text!r} is no DNS record type: expected A, AAAA, CNAME, TXT or SRV, say.") from None


def _key(key: TsigKey) -> dns.tsig.Key:
    if key.algorithm.lower().rstrip(".") not in _ALGORITHMS:
        known = ", ".join(sorted(_ALGORITHMS))
        raise BadInput(f"TSIG key {key.name!r} has the unknown algorithm {key.algorithm!r}: expected one of {known}.")
    try:
        binascii.a2b_base64(key.secret.encode("ascii"), strict_mode=True)
    except (ValueError, binascii.Error):
        # The value itself is never shown.
        raise BadInput(
            f"The secret of TSIG key {key.name!r} is not base64: expected the text after `secret` that tsig-keygen "
            "prints, without quotes."
        ) from None
    algorithm = "hmac-md5.sig-alg.reg.int" if key.algorithm.lower() == "hmac-md5" else key.algorithm
    return dns.tsig.Key(key.name, key.secret, algorithm)


def _names(records: list[DnsBefore]) -> str:
    return ", ".join(f"{record.name} {record.type}" for record in records)


def _words(record: DnsBefore) -> str:
    return f"{record.name} {record.type} is {', '.join(record.values) or 'absent'}"

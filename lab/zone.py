"""One DNS zone in memory, and RFC 2136 updates to it, with prerequisites."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.update
from dns.rdtypes.ANY.SOA import SOA

Records = dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rdataset.Rdataset]
_IN = dns.rdataclass.IN


class Refused(Exception):
    """The request gets this response code."""

    def __init__(self, rcode: dns.rcode.Rcode) -> None:
        super().__init__(dns.rcode.to_text(rcode))
        self.rcode = rcode


class Zone:
    """The records of one zone. `keep` is called with all of them before an update is acknowledged."""

    def __init__(self, origin: str, records: Iterable[list[Any]], keep: Callable[[list[list[Any]]], None]) -> None:
        self.origin = dns.name.from_text(origin)
        self.keep = keep
        self.records: Records = {}
        apex = self.origin.to_text()
        for name, ttl, kind, text in (
            [apex, 60, "SOA", f"ns.{apex} hostmaster.{apex} 1 60 60 3600 1"],
            [apex, 60, "NS", f"ns.{apex}"],
            *records,
        ):
            rdtype = dns.rdatatype.from_text(kind)
            self._add(self.records, dns.name.from_text(name), ttl, dns.rdata.from_text(_IN, rdtype, text))

    # -- reading ----------------------------------------------------------------------------------------------

    def find(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> list[dns.rrset.RRset]:
        """Return the answer to a question: the record set, every one for ANY, or the CNAME in its place."""
        found = []
        for (owner, kind), rdataset in self.records.items():
            if owner == name and (kind == rdtype or rdtype == dns.rdatatype.ANY or kind == dns.rdatatype.CNAME):
                found.append(dns.rrset.from_rdata_list(owner, rdataset.ttl, list(rdataset)))
        return found

    def has_name(self, name: dns.name.Name) -> bool:
        return any(owner.is_subdomain(name) for owner, _ in self.records)

    def start_of_authority(self) -> dns.rrset.RRset:
        return self.find(self.origin, dns.rdatatype.SOA)[0]

    def as_lists(self) -> list[list[Any]]:
        """Return all records as [name, ttl, type, text]."""
        return [
            [name.to_text(), rdataset.ttl, dns.rdatatype.to_text(kind), rdata.to_text()]
            for (name, kind), rdataset in self.records.items()
            for rdata in rdataset
        ]

    # -- updating (RFC 2136, section 3) -----------------------------------------------------------------------

    def update(self, message: dns.update.UpdateMessage) -> None:
        """Apply all of an update or nothing. Raises Refused with the response code."""
        zones = message.zone
        if len(zones) != 1 or zones[0].rdtype != dns.rdatatype.SOA:
            raise Refused(dns.rcode.FORMERR)
        if zones[0].name != self.origin or zones[0].rdclass != _IN:
            raise Refused(dns.rcode.NOTAUTH)
        self._check_prerequisites(message.prerequisite)
        self._check_updates(message.update)
        changed = {
            key: dns.rdataset.from_rdata_list(rdataset.ttl, list(rdataset)) for key, rdataset in self.records.items()
        }
        for rrset in message.update:
            self._apply(changed, rrset)
        if changed == self.records:
            return
        self._raise_serial(changed)
        before, self.records = self.records, changed
        try:
            self.keep(self.as_lists())
        except OSError:
            self.records = before
            raise Refused(dns.rcode.SERVFAIL) from None

    def _check_prerequisites(self, prerequisites: list[dns.rrset.RRset]) -> None:
        exact: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rdataset.Rdataset] = {}
        for rrset in prerequisites:
            if rrset.ttl != 0:
                raise Refused(dns.rcode.FORMERR)
            if not rrset.name.is_subdomain(self.origin):
                raise Refused(dns.rcode.NOTZONE)
            key = (rrset.name, rrset.rdtype)
            if rrset.deleting is None:
                wanted = exact.setdefault(key, dns.rdataset.Rdataset(_IN, rrset.rdtype))
                for rdata in rrset:
                    wanted.add(rdata)
                continue
            if rrset:
                raise Refused(dns.rcode.FORMERR)
            must_exist = rrset.deleting == dns.rdataclass.ANY
            if rrset.rdtype == dns.rdatatype.ANY:
                if any(owner == rrset.name for owner, _ in self.records) != must_exist:
                    raise Refused(dns.rcode.NXDOMAIN if must_exist else dns.rcode.YXDOMAIN)
            elif (key in self.records) != must_exist:
                raise Refused(dns.rcode.NXRRSET if must_exist else dns.rcode.YXRRSET)
        for key, wanted in exact.items():
            if set(self.records.get(key, ())) != set(wanted):
                raise Refused(dns.rcode.NXRRSET)

    def _check_updates(self, updates: list[dns.rrset.RRset]) -> None:
        for rrset in updates:
            if not rrset.name.is_subdomain(self.origin):
                raise Refused(dns.rcode.NOTZONE)
            if rrset.deleting is None:
                bad = not rrset or dns.rdatatype.is_metatype(rrset.rdtype)
            elif rrset.deleting == dns.rdataclass.ANY:
                bad = rrset.ttl != 0 or bool(rrset)
            else:
                bad = rrset.ttl != 0 or not rrset or dns.rdatatype.is_metatype(rrset.rdtype)
            if bad:
                raise Refused(dns.rcode.FORMERR)

    def _apply(self, records: Records, rrset: dns.rrset.RRset) -> None:
        name, rdtype = rrset.name, rrset.rdtype
        protected = {dns.rdatatype.SOA, dns.rdatatype.NS} if name == self.origin else set()
        if rrset.deleting is None:
            for rdata in rrset:
                self._add(records, name, rrset.ttl, rdata)
        elif rrset.deleting == dns.rdataclass.ANY:
            for key in list(records):
                if key[0] == name and rdtype in (key[1], dns.rdatatype.ANY) and key[1] not in protected:
                    del records[key]
        elif (name, rdtype) in records and rdtype != dns.rdatatype.SOA:
            left = [rdata for rdata in records[name, rdtype] if rdata not in rrset]
            if left:
                records[name, rdtype] = dns.rdataset.from_rdata_list(records[name, rdtype].ttl, left)
            elif rdtype not in protected:  # the zone keeps its last name server
                del records[name, rdtype]

    @staticmethod
    def _add(records: Records, name: dns.name.Name, ttl: int, rdata: dns.rdata.Rdata) -> None:
        others = {kind for owner, kind in records if owner == name}
        is_alias = rdata.rdtype == dns.rdatatype.CNAME
        if others and is_alias != (dns.rdatatype.CNAME in others):
            return  # RFC 2136, 3.4.2.2: an alias and other records exclude each other; ignored without error
        old = records.get((name, rdata.rdtype))
        if rdata.rdtype in (dns.rdatatype.CNAME, dns.rdatatype.SOA):
            if old is not None and isinstance(rdata, SOA) and rdata.serial <= old[0].serial:
                return
            old = None
        kept = [] if old is None else [other for other in old if other != rdata]
        records[name, rdata.rdtype] = dns.rdataset.from_rdata_list(ttl, [*kept, rdata])

    def _raise_serial(self, records: Records) -> None:
        key = (self.origin, dns.rdatatype.SOA)
        start = records[key][0]
        if start.serial == self.records[key][0].serial:
            records[key] = dns.rdataset.from_rdata(records[key].ttl, start.replace(serial=start.serial + 1))

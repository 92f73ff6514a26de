"""In front of moto: what Route 53 refuses and moto lets pass, its slowness, and its name servers.

Written after the API reference (ChangeResourceRecordSets, GetChange) and the messages that Route 53 sends: a DELETE
must name the record exactly, a CREATE must find none, simple and weighted records of one name and type exclude each
other, a batch is made as a whole or not at all, and a change is PENDING until the name servers have it.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from typing import Any
from xml.etree import ElementTree

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.contract.serving import serving

API = "https://route53.amazonaws.com/doc/2013-04-01/"
Key = tuple[str, str, str | None]


@dataclass(frozen=True)
class Stored:
    """A resource record set as Route 53 compares it."""

    name: str
    type: str
    identifier: str | None
    weight: int | None
    ttl: int | None
    values: tuple[str, ...]
    alias: tuple[str, str, str] | None
    health_check: str | None

    @property
    def key(self) -> Key:
        return self.name, self.type, self.identifier

    @property
    def words(self) -> str:
        identifier = f", set identifier='{self.identifier}'" if self.identifier else ""
        return f"resource record set [name='{self.name}.', type='{self.type}'{identifier}]"


@dataclass
class Front:
    """``faults`` strike one request each, in order: see :meth:`_fault`. ``polls``: how often a change is PENDING."""

    moto: str
    address: str = ""
    dns_port: int = 0
    polls: int = 0
    faults: list[str] = field(default_factory=list)
    addresses: dict[str, list[str]] = field(default_factory=dict)  # of alias targets
    stale: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # what the name server answers instead
    zones: dict[str, dict[Key, Stored]] = field(default_factory=dict)
    served: dict[str, dict[Key, Stored]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    batches: list[list[tuple[str, Stored]]] = field(default_factory=list)
    _pending: dict[str, list[Any]] = field(default_factory=dict)
    _turn: Any = field(default_factory=itertools.count)

    # The API.

    async def change(self, request: Request) -> Response:
        self.calls.append("change")
        zone = request.path_params["zone"]
        body = await request.body()
        fault = self.faults.pop(0) if self.faults else ""
        if early := _early(fault):
            return early
        batch = [(_text(change, "Action"), _stored(change)) for change in _parse(body).iter(f"{{{API}}}Change")]
        after = dict(self.zones.setdefault(zone, {}))
        problems = [said for action, stored in batch if (said := _apply(after, action, stored))]
        if problems:
            return _error(400, "InvalidChangeBatch", f"[{', '.join(problems)}]")
        for action in ("DELETE", "CREATE"):  # moto refuses both in one, and a CREATE that it has seen before
            if any(action == each for each, _ in batch):
                answer = await self._pass_on(request, _only(body, action))
                assert answer.status_code == 200, answer.text
        self.zones[zone] = after
        self.batches.append(batch)
        change = f"C{next(self._turn)}"
        self._pending[change] = [self.polls, zone, dict(after)]
        if self.polls == 0:
            self.served[zone] = dict(after)
        if fault == "lose the answer":
            return _error(500, "InternalFailure", "We encountered an internal error.")
        return _info(change, "INSYNC" if self.polls == 0 else "PENDING")

    async def get_change(self, request: Request) -> Response:
        self.calls.append("get_change")
        if early := _early(self.faults.pop(0) if self.faults else ""):
            return early
        change = request.path_params["change"]
        left, zone, after = self._pending[change]
        if left > 0:
            self._pending[change][0] -= 1
            return _info(change, "PENDING")
        self.served[zone] = after
        return _info(change, "INSYNC")

    async def other(self, request: Request) -> Response:
        self.calls.append("read")
        if early := _early(self.faults.pop(0) if self.faults else ""):
            return early
        answer = await self._pass_on(request, await request.body())
        return Response(answer.content, answer.status_code, media_type="text/xml")

    async def _pass_on(self, request: Request, body: bytes) -> httpx.Response:
        async with httpx.AsyncClient(timeout=20) as client:
            target = f"{self.moto}{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
            headers = {
                name: request.headers[name] for name in ("authorization", "x-amz-date") if name in request.headers
            }
            return await client.request(request.method, target, content=body, headers=headers)

    # The name servers.

    def answer(self, wire: bytes) -> bytes:
        query = dns.message.from_wire(wire)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        question = query.question[0]
        name = str(question.name).rstrip(".").lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        values = self.stale.get((name, kind))
        if values is None:
            values = self._values(name, kind)
        if values:
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *values))
        return response.to_wire()

    def _values(self, name: str, kind: str) -> list[str]:
        found = [
            stored
            for sets in self.served.values()
            for stored in sets.values()
            if (stored.name, stored.type) == (name, kind)
        ]
        drawn = [stored for stored in found if stored.weight is None or stored.weight > 0]
        if not drawn:
            return []
        stored = drawn[next(self._turn) % len(drawn)]
        return list(stored.values) if stored.alias is None else self.addresses.get(stored.alias[1], [])


def _early(fault: str) -> Response | None:
    match fault:
        case "throttle":
            return _error(400, "Throttling", "Rate exceeded")
        case "prior request":
            return _error(
                400,
                "PriorRequestNotComplete",
                "The request was rejected because Route 53 was still processing a prior request.",
            )
        case "deny":
            return _error(
                403,
                "AccessDenied",
                "User: arn:aws:iam::111122223333:user/plans is not authorized to perform: "
                "route53:ChangeResourceRecordSets",
            )
        case "fail":
            return _error(503, "ServiceUnavailable", "Service is unavailable")
    return None


def _apply(zone: dict[Key, Stored], action: str, stored: Stored) -> str | None:
    """Makes one change on the copy of a zone, or says why not in Route 53's words."""
    current = zone.get(stored.key)
    if action == "DELETE":
        if current is None:
            return f"Tried to delete {stored.words} but it was not found"
        if current != stored:
            return f"Tried to delete {stored.words} but the values provided do not match the current values"
        del zone[stored.key]
        return None
    if action != "CREATE":
        return f"{action} overwrites what somebody else wrote: a change must delete and create"
    if current is not None:
        return f"Tried to create {stored.words} but it already exists"
    for other in zone.values():
        if other.name != stored.name:
            continue
        if "CNAME" in (other.type, stored.type) and other.type != stored.type:
            return (
                f"RRSet of type {stored.type} with DNS name {stored.name}. is not permitted as it conflicts with other "
                "records with the same DNS name in zone"
            )
        if other.type == stored.type and (other.identifier is None) != (stored.identifier is None):
            return f"{stored.words} cannot be created as a simple and a weighted record of one name exclude each other"
    if stored.type == "A" and any(not _is_address(value) for value in stored.values):
        return f"Invalid Resource Record: 'FATAL problem: ARRDATAIllegalIPv4Address encountered with {stored.values}'"
    zone[stored.key] = stored
    return None


def _is_address(value: str) -> bool:
    try:
        IPv4Address(value)
    except AddressValueError:
        return False
    return True


def _parse(body: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(body)


def _only(body: bytes, action: str) -> bytes:
    root = _parse(body)
    for changes in root.iter(f"{{{API}}}Changes"):
        for change in list(changes):
            if _text(change, "Action") != action:
                changes.remove(change)
            elif (named := change.find(f"{{{API}}}Action")) is not None and action == "CREATE":
                named.text = "UPSERT"
    return ElementTree.tostring(root)


def _text(element: ElementTree.Element, path: str) -> str:
    return element.findtext("/".join(f"{{{API}}}{part}" for part in path.split("/"))) or ""


def _stored(change: ElementTree.Element) -> Stored:
    entry = change.find(f"{{{API}}}ResourceRecordSet")
    assert entry is not None
    alias = entry.find(f"{{{API}}}AliasTarget")
    weight, ttl = _text(entry, "Weight"), _text(entry, "TTL")
    assert (alias is None) == bool(ttl), "a record has a TTL or is an alias"
    return Stored(
        name=_plain(_text(entry, "Name")),
        type=_text(entry, "Type"),
        identifier=_text(entry, "SetIdentifier") or None,
        weight=int(weight) if weight else None,
        ttl=int(ttl) if ttl else None,
        values=tuple(sorted(value.text or "" for value in entry.iter(f"{{{API}}}Value"))),
        alias=None
        if alias is None
        else (
            _text(alias, "HostedZoneId"),
            _plain(_text(alias, "DNSName")),
            _text(alias, "EvaluateTargetHealth"),
        ),
        health_check=_text(entry, "HealthCheckId") or None,
    )


def _plain(name: str) -> str:
    return re.sub(r"\.$", "", name).lower()


def _info(change: str, status: str) -> Response:
    return Response(
        f'<?xml version="1.0"?><R xmlns="{API}"><ChangeInfo><Id>/change/{change}</Id><Status>{status}</Status>'
        "<SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt></ChangeInfo></R>",
        media_type="text/xml",
    )


def _error(status: int, code: str, words: str) -> Response:
    return Response(
        f'<?xml version="1.0"?><ErrorResponse xmlns="{API}"><Error><Type>Sender</Type><Code>{code}</Code>'
        f"<Message>{words}</Message></Error><RequestId>1</RequestId></ErrorResponse>",
        status,
        media_type="text/xml",
    )


class _NameServer(asyncio.DatagramProtocol):
    def __init__(self, front: Front) -> None:
        self._front = front

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(self._front.answer(data), addr)


@asynccontextmanager
async def route53(moto: str) -> AsyncIterator[Front]:
    front = Front(moto)
    api = "/2013-04-01"
    application = Starlette(
        routes=[
            Route(f"{api}/hostedzone/{{zone}}/rrset", front.change, methods=["POST"]),
            Route(f"{api}/hostedzone/{{zone}}/rrset/", front.change, methods=["POST"]),
            Route(f"{api}/change/{{change}}", front.get_change, methods=["GET"]),
            Route("/{path:path}", front.other, methods=["GET", "POST", "DELETE"]),
        ]
    )
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _NameServer(front), local_addr=("127.0.0.1", 0)
    )
    front.dns_port = transport.get_extra_info("sockname")[1]
    try:
        async with serving(application) as front.address:
            yield front
    finally:
        transport.close()

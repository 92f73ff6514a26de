"""What a zone's name servers answer: asked directly, so that no cache stands in between."""

from __future__ import annotations

import asyncio
import socket

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

Server = tuple[str, int]
"""Host and port."""
Answer = frozenset[dns.rdata.Rdata]
TIMEOUT = 2.0  # seconds, for one question to one server


async def ask(server: Server, name: str, type: str, timeout: float = TIMEOUT) -> Answer | str:
    """The values of a record at one of its name servers (empty: it has none), or why it could not be asked."""
    query = dns.message.make_query(name, type)
    query.flags &= ~dns.flags.RD
    try:
        async with asyncio.timeout(timeout):
            response = await _exchange(query, server)
    except (TimeoutError, dns.exception.Timeout):
        return f"did not answer within {timeout:g} s"
    except (OSError, EOFError, dns.exception.DNSException) as error:
        return f"gave no usable answer ({getattr(error, 'strerror', None) or error})"
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) or not response.flags & dns.flags.AA:
        return f"is not authoritative for {name} ({dns.rcode.to_text(response.rcode())})"
    owner, rdtype = dns.name.from_text(name), dns.rdatatype.from_text(type)
    found = response.get_rrset(response.answer, owner, dns.rdataclass.IN, rdtype)
    return frozenset(found) if found is not None else frozenset()


async def ask_all(servers: list[Server], name: str, type: str) -> dict[Server, Answer | str]:
    answers = await asyncio.gather(*(ask(server, name, type) for server in servers))
    return dict(zip(servers, answers, strict=True))


async def addresses(name: str, type: str, timeout: float = TIMEOUT) -> Answer:
    """Addresses of a host by this machine's own resolver; empty when it cannot tell."""
    family = socket.AF_INET6 if type.upper() == "AAAA" else socket.AF_INET
    try:
        async with asyncio.timeout(timeout):
            found = await asyncio.get_running_loop().getaddrinfo(
                name.rstrip("."), None, family=family, type=socket.SOCK_STREAM
            )
    except (OSError, TimeoutError, UnicodeError):
        return frozenset()
    return frozenset(dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(type), str(a[4][0])) for a in found)


async def _exchange(query: dns.message.Message, server: Server) -> dns.message.Message:
    host, port = server
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    response, _ = await dns.asyncquery.udp_with_fallback(query, str(found[0][4][0]), port=port)
    return response

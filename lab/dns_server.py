"""An authoritative DNS server for one zone that takes RFC 2136 updates signed with TSIG (RFC 8945).

This is the lab's one server of our own, built on dnspython, because no DNS server is packaged for PyPI. It is for the
lab and for tests; production talks to a real one (BIND, Knot, PowerDNS, Route 53).

    python -m lab.dns_server <dns.json: {"host", "port", "zone", "tsig_key_name", "tsig_secret", "records"}>

`records` are [name, ttl, type, text]. Every accepted update is written to `zone.json` beside the configuration, so that
a killed server comes back with what it acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.tsigkeyring
import dns.update

from lab.zone import Refused, Zone

_TCP_IDLE_SECONDS = 10.0
_TSIG_ERRORS: dict[type[dns.exception.DNSException], int] = {
    dns.message.UnknownTSIGKey: dns.rcode.BADKEY,
    dns.tsig.BadSignature: dns.rcode.BADSIG,
    dns.tsig.BadTime: dns.rcode.BADTIME,
    dns.tsig.BadKey: dns.rcode.BADKEY,
    dns.tsig.BadAlgorithm: dns.rcode.BADKEY,
}


class DnsServer:
    """Answers messages; knows nothing of sockets."""

    def __init__(self, zone: Zone, keyring: dict[dns.name.Name, dns.tsig.Key]) -> None:
        self.zone = zone
        self.keyring = keyring

    def answer(self, wire: bytes) -> bytes | None:
        """Return the answer to one message; None for what is no DNS request at all."""
        try:
            request = dns.message.from_wire(wire, keyring=self.keyring)
        except tuple(_TSIG_ERRORS) as error:
            return self._bad_signature(wire, _TSIG_ERRORS[type(error)])
        except dns.exception.DNSException:
            return self._unreadable(wire)
        if request.flags & dns.flags.QR:
            return None
        response = dns.message.make_response(request)
        response.flags |= dns.flags.AA
        try:
            match request.opcode():
                case dns.opcode.QUERY:
                    self._query(request, response)
                case dns.opcode.UPDATE:
                    self._update(request)
                case _:
                    raise Refused(dns.rcode.NOTIMP)
        except Refused as refused:
            response.set_rcode(refused.rcode)
        return response.to_wire(max_size=65535)

    def _query(self, request: dns.message.Message, response: dns.message.Message) -> None:
        if len(request.question) != 1:
            raise Refused(dns.rcode.FORMERR)
        question = request.question[0]
        if not question.name.is_subdomain(self.zone.origin):
            response.flags &= ~dns.flags.AA
            raise Refused(dns.rcode.REFUSED)
        found = self.zone.find(question.name, question.rdtype)
        response.answer.extend(found)
        if not found:
            response.authority.append(self.zone.start_of_authority())
            if not self.zone.has_name(question.name):
                response.set_rcode(dns.rcode.NXDOMAIN)

    def _update(self, request: dns.message.Message) -> None:
        if not isinstance(request, dns.update.UpdateMessage):
            raise Refused(dns.rcode.FORMERR)
        if not request.had_tsig:
            raise Refused(dns.rcode.REFUSED)
        self.zone.update(request)

    def _bad_signature(self, wire: bytes, error: int) -> bytes:
        """RFC 8945, 5.2: NOTAUTH with the error in an unsigned TSIG record."""
        request = dns.message.from_wire(wire, keyring=False)
        response = self._plain_response(wire, dns.rcode.NOTAUTH)
        asked = request.tsig
        if asked is None:
            return response.to_wire()
        record = asked[0].replace(mac=b"", error=error, other=b"")
        response.additional.append(dns.rrset.from_rdata(asked.name, 0, record))
        return response.to_wire()

    def _unreadable(self, wire: bytes) -> bytes | None:
        if len(wire) < 12 or wire[2] & 0x80:
            return None
        return self._plain_response(wire, dns.rcode.FORMERR).to_wire()

    @staticmethod
    def _plain_response(wire: bytes, rcode: dns.rcode.Rcode) -> dns.message.Message:
        response = dns.message.Message(id=struct.unpack("!H", wire[:2])[0])
        response.flags = dns.flags.QR | (struct.unpack("!H", wire[2:4])[0] & 0x7800)
        response.set_rcode(rcode)
        return response


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        answer = self.server.answer(data)
        if answer is not None:
            self.transport.sendto(answer, addr)


async def _tcp(server: DnsServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Messages over TCP have a length of two bytes in front (RFC 1035, 4.2.2)."""
    try:
        while True:
            async with asyncio.timeout(_TCP_IDLE_SECONDS):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                wire = await reader.readexactly(length)
            answer = server.answer(wire)
            if answer is None:
                return
            writer.write(struct.pack("!H", len(answer)) + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        return  # the client is done, or gone
    finally:
        writer.close()


async def run(file: Path) -> None:
    """Serve until the process is ended."""
    settings = json.loads(await asyncio.to_thread(file.read_text))
    kept = file.parent / "zone.json"
    records = json.loads(await asyncio.to_thread(kept.read_text)) if kept.exists() else settings["records"]

    def keep(content: list[list[Any]]) -> None:
        new = kept.with_suffix(".new")
        with new.open("w") as out:
            json.dump(content, out)
            out.flush()
            os.fsync(out.fileno())
        new.replace(kept)

    zone = Zone(settings["zone"], records, keep)
    algorithm = dns.name.from_text(settings["tsig_algorithm"])
    key = dns.tsig.Key(settings["tsig_key_name"], settings["tsig_secret"], algorithm)
    server = DnsServer(zone, {key.name: key})
    host, port = settings["host"], settings["port"]
    tcp = await asyncio.start_server(lambda r, w: _tcp(server, r, w), host, port)
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Udp(server), local_addr=(host, port))
    await tcp.serve_forever()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))

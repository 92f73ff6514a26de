"""What the RFC 2136 adapter says when keys, zones, servers and networks are wrong."""

from __future__ import annotations

import asyncio
import base64
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import dns.flags
import dns.message
import dns.rcode
import pytest

from recovery.adapters.rfc2136 import Rfc2136Zone, TsigKey
from recovery.domain.plan import DnsBefore
from recovery.errors import BadInput, Contended, Refused, Unreachable
from tests.contract import dns_servers
from tests.contract.dns_servers import KEY_NAME, SECRET, ZONE, Server

BEFORE = DnsBefore(name="db.shop.test", type="A", ttl=60, values=["192.0.2.1"], zone=ZONE)
AFTER = BEFORE.model_copy(update={"values": ["198.51.100.7"]})
OTHER_SECRET = base64.b64encode(b"another secret, just as long, but").decode()


@pytest.fixture(params=dns_servers.available(), scope="module")
async def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with dns_servers.running(request.param, tmp_path_factory.mktemp("dns")) as server:
        yield server


def zone_at(server: Server, key: TsigKey | None = None, *, timeout: float = 3) -> Rfc2136Zone:
    key = key or TsigKey(KEY_NAME, SECRET)
    return Rfc2136Zone(server.host, server.port, key=key, timeout=timedelta(seconds=timeout))


async def unchanged(server: Server) -> bool:
    return (await zone_at(server).read("db.shop.test", "A", ZONE)).values == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (TsigKey("nobody.", SECRET), "does not know the TSIG key 'nobody.'"),
        (TsigKey(KEY_NAME, OTHER_SECRET), "has another secret or algorithm for the TSIG key"),
        (TsigKey(KEY_NAME, SECRET, "hmac-sha512"), "has another secret or algorithm|does not know the TSIG key"),
    ],
    ids=["unknown key", "wrong secret", "wrong algorithm"],
)
async def test_a_wrong_key_is_refused_with_a_sentence(server: Server, key: TsigKey, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence) as failure:
        await zone_at(server, key).replace([(BEFORE, AFTER)])
    assert key.secret not in str(failure.value) + repr(key)
    assert await unchanged(server)


async def test_an_unsigned_update_is_refused(server: Server) -> None:
    unsigned = Rfc2136Zone(server.host, server.port)
    with pytest.raises(Refused, match=r"does not let unsigned requests update zone shop\.test"):
        await unsigned.replace([(BEFORE, AFTER)])
    assert await unchanged(server)


async def test_a_zone_that_the_server_does_not_have(server: Server) -> None:
    elsewhere = DnsBefore(name="db.nowhere.test", type="A", ttl=60, values=[], zone="nowhere.test")
    with pytest.raises(Refused, match=r"nowhere\.test"):
        await zone_at(server).read(elsewhere.name, "A", elsewhere.zone)
    with pytest.raises(Refused, match=r"is not the primary server of zone nowhere\.test"):
        await zone_at(server).replace([(elsewhere, elsewhere.model_copy(update={"values": ["192.0.2.1"]}))])


async def test_an_alias_hides_other_types_and_is_said(server: Server) -> None:
    with pytest.raises(BadInput, match=r"alias\.shop\.test is an alias \(CNAME\) of db\.shop\.test\."):
        await zone_at(server).read("alias.shop.test", "A", ZONE)


async def test_an_update_that_the_server_ignores_is_noticed(server: Server) -> None:
    """A CNAME beside other records is silently left out by RFC 2136 servers, which answer NOERROR."""
    nothing = DnsBefore(name="db.shop.test", type="CNAME", ttl=60, values=[], zone=ZONE)
    with pytest.raises(Contended, match="but serves something else"):
        await zone_at(server).replace([(nothing, nothing.model_copy(update={"values": ["text.shop.test."]}))])
    assert await unchanged(server)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"values": ["not an address"]}, "is no value of a A record"),
        ({"type": "NOSUCH"}, "'NOSUCH' is no DNS record type"),
        ({"name": "db.elsewhere.test"}, r"does not lie in zone shop\.test"),
        ({"name": "db..shop.test"}, "is no DNS name"),
        ({"name": "web.shop.test"}, "A change must keep name and type"),
    ],
)
async def test_bad_records_are_refused_before_anything_is_sent(
    server: Server, changed: dict[str, str], sentence: str
) -> None:
    after = AFTER.model_copy(update=changed)
    before = BEFORE if "name" in changed and "web" in changed["name"] else BEFORE.model_copy(update=changed)
    with pytest.raises(BadInput, match=sentence):
        await zone_at(server).replace([(before, after)])
    assert await unchanged(server)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (TsigKey("plans.", "not base64!"), "is not base64"),
        (TsigKey("plans.", SECRET, "rot13"), "unknown algorithm 'rot13': expected one of .*hmac-sha256"),
    ],
)
def test_bad_keys_are_refused_without_showing_them(key: TsigKey, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as failure:
        Rfc2136Zone("127.0.0.1", key=key)
    assert key.secret not in str(failure.value)


# Servers that misbehave ---------------------------------------------------------------------------------------------

Answer = Callable[[bytes], Awaitable[bytes | None]]


@asynccontextmanager
async def odd_server(answer: Answer) -> AsyncIterator[Server]:
    """DNS over TCP with any answer; None closes the connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            reply = await answer(await reader.readexactly(length))
            if reply is not None:
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield Server("127.0.0.1", listening.sockets[0].getsockname()[1], (ZONE,))
    finally:
        listening.close()


def unsigned(wire: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """An answer with the right identity and question, but no signature."""
    request = dns.message.from_wire(wire, keyring=False)
    request.tsig = None
    response = dns.message.make_response(request)
    response.flags |= dns.flags.AA
    response.set_rcode(rcode)
    return response.to_wire()


async def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    async def silence(_: bytes) -> None:
        await asyncio.sleep(30)

    async with odd_server(silence) as server:
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable, match=r"did not answer within 0\.3 s"):
            await zone_at(server, timeout=0.3).read("db.shop.test", "A", ZONE)
        assert asyncio.get_running_loop().time() - began < 1.5


async def test_a_server_that_hangs_up() -> None:
    async def hang_up(_: bytes) -> None:
        return None

    async with odd_server(hang_up) as server:
        with pytest.raises(Unreachable, match="gave no usable answer"):
            await zone_at(server).replace([(BEFORE, AFTER)])


async def test_a_server_that_talks_nonsense() -> None:
    async def nonsense(_: bytes) -> bytes:
        return b"HTTP/1.1 400 Bad Request\r\n\r\n"

    async with odd_server(nonsense) as server:
        with pytest.raises(Unreachable, match="gave no usable answer"):
            await zone_at(server).read("db.shop.test", "A", ZONE)


async def test_an_unsigned_yes_is_not_believed() -> None:
    """A forged NOERROR must not make a plan think that the switch was made."""

    async def forged(wire: bytes) -> bytes:
        return unsigned(wire, dns.rcode.NOERROR)

    async with odd_server(forged) as server:
        with pytest.raises(Unreachable, match=r"gave no usable answer: .*TSIG"):
            await zone_at(server).replace([(BEFORE, AFTER)])


async def test_server_failure_is_worth_another_attempt() -> None:
    async def broken(wire: bytes) -> bytes:
        return unsigned(wire, dns.rcode.SERVFAIL)

    async with odd_server(broken) as server:
        unkeyed = Rfc2136Zone(server.host, server.port)
        with pytest.raises(Unreachable, match=r"failed at the update of zone shop\.test \(SERVFAIL\)"):
            await unkeyed.replace([(BEFORE, AFTER)])


async def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(Unreachable, match=f"DNS server 127.0.0.1:{port} gave no usable answer"):
        await zone_at(Server("127.0.0.1", port, (ZONE,))).read("db.shop.test", "A", ZONE)


async def test_a_lost_answer_is_no_loss(server: Server) -> None:
    """The update works, its answer is lost: the next attempt of the same change succeeds."""

    async def swallow(wire: bytes) -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(struct.pack("!H", len(wire)) + wire)
        await reader.readexactly(2)
        writer.close()

    try:
        async with odd_server(swallow) as proxy:
            with pytest.raises(Unreachable):
                await zone_at(proxy).replace([(BEFORE, AFTER)])
        await zone_at(server).replace([(BEFORE, AFTER)])
        assert (await zone_at(server).read("db.shop.test", "A", ZONE)).values == AFTER.values
    finally:
        await zone_at(server).replace([(AFTER, BEFORE)])

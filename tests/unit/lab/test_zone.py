"""RFC 2136 updates and DNS answers, message by message, without a socket."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update
import pytest

from lab.dns_server import DnsServer
from lab.zone import Zone

KEY = dns.tsig.Key("dr-key", "c2VjcmV0LXNlY3JldC1zZWNyZXQ=", dns.tsig.HMAC_SHA256)
RING = {KEY.name: KEY}
RECORDS: list[list[Any]] = [
    ["db.shop.test", 1, "A", "127.0.0.1"],
    ["pool.shop.test", 1, "A", "127.0.0.1"],
    ["pool.shop.test", 1, "A", "127.0.0.2"],
    ["alias.shop.test", 1, "CNAME", "db.shop.test."],
    ["a.deep.shop.test", 1, "TXT", '"below an empty name"'],
]


class Kept(list[list[list[Any]]]):
    """What the zone wrote, one entry per accepted update; can refuse like a full disk."""

    full = False

    def __call__(self, content: list[list[Any]]) -> None:
        if self.full:
            raise OSError("No space left on device")
        self.append(content)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def server(kept: Kept) -> DnsServer:
    return DnsServer(Zone("shop.test", RECORDS, kept), RING)


def ask(server: DnsServer, name: str, kind: str = "A") -> dns.message.Message:
    answer = server.answer(dns.message.make_query(name, kind).to_wire())
    assert answer is not None
    return dns.message.from_wire(answer)


def addresses(server: DnsServer, name: str) -> set[str]:
    return {rdata.to_text() for rrset in ask(server, name).answer for rdata in rrset}


def new_update(zone: str = "shop.test") -> dns.update.UpdateMessage:
    return dns.update.UpdateMessage(zone, keyring=RING, keyname=KEY.name, keyalgorithm=dns.tsig.HMAC_SHA256)


def send(server: DnsServer, update: dns.update.UpdateMessage) -> str:
    answer = server.answer(update.to_wire())
    assert answer is not None
    response = dns.message.from_wire(answer, keyring=RING, request_mac=update.mac)
    assert response.opcode() == dns.opcode.UPDATE
    assert response.id == update.id
    return dns.rcode.to_text(response.rcode())


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "answers"),
    [
        ("db.shop.test", "A", "NOERROR", 1),
        ("DB.Shop.TEST", "A", "NOERROR", 1),
        ("pool.shop.test", "A", "NOERROR", 2),
        ("db.shop.test", "AAAA", "NOERROR", 0),
        ("deep.shop.test", "A", "NOERROR", 0),
        ("nowhere.shop.test", "A", "NXDOMAIN", 0),
        ("alias.shop.test", "A", "NOERROR", 1),
        ("elsewhere.test", "A", "REFUSED", 0),
    ],
)
def test_questions(server: DnsServer, name: str, kind: str, rcode: str, answers: int) -> None:
    answer = ask(server, name, kind)
    assert dns.rcode.to_text(answer.rcode()) == rcode
    assert sum(len(rrset) for rrset in answer.answer) == answers
    assert bool(answer.flags & dns.flags.AA) == (rcode != "REFUSED")
    if rcode != "REFUSED" and not answers:
        assert answer.authority[0].rdtype == dns.rdatatype.SOA


def test_a_record_is_replaced_kept_and_the_serial_grows(server: DnsServer, kept: Kept) -> None:
    before = ask(server, "shop.test", "SOA").answer[0][0].serial
    update = new_update()
    update.replace("db", 1, "A", "127.0.0.2")
    assert send(server, update) == "NOERROR"
    assert addresses(server, "db.shop.test") == {"127.0.0.2"}
    assert ask(server, "shop.test", "SOA").answer[0][0].serial == before + 1
    assert ["db.shop.test.", 1, "A", "127.0.0.2"] in kept[-1]


def test_what_was_kept_can_be_read_again(server: DnsServer, kept: Kept) -> None:
    update = new_update()
    update.replace("db", 1, "A", "127.0.0.2")
    send(server, update)
    again = Zone("shop.test", kept[-1], Kept())
    assert again.as_lists() == server.zone.as_lists()


@pytest.mark.parametrize(
    ("prepare", "rcode"),
    [
        (lambda u: u.present("db", "A", "127.0.0.1"), "NOERROR"),
        (lambda u: u.present("db", "A", "127.0.0.9"), "NXRRSET"),
        (lambda u: u.present("pool", "A", "127.0.0.1"), "NXRRSET"),  # not all of the set
        (lambda u: u.present("pool", "A", "127.0.0.1", "127.0.0.2"), "NOERROR"),
        (lambda u: u.present("db", "A"), "NOERROR"),
        (lambda u: u.present("db", "TXT"), "NXRRSET"),
        (lambda u: u.present("db"), "NOERROR"),
        (lambda u: u.present("nowhere"), "NXDOMAIN"),
        (lambda u: u.absent("db"), "YXDOMAIN"),
        (lambda u: u.absent("nowhere"), "NOERROR"),
        (lambda u: u.absent("db", "A"), "YXRRSET"),
        (lambda u: u.absent("db", "TXT"), "NOERROR"),
        (lambda u: u.present(dns.name.from_text("db.other.test."), "A"), "NOTZONE"),
    ],
)
def test_prerequisites_decide_whether_anything_changes(server: DnsServer, kept: Kept, prepare: Any, rcode: str) -> None:
    update = new_update()
    prepare(update)
    update.replace("db", 1, "A", "127.0.0.2")
    assert send(server, update) == rcode
    assert addresses(server, "db.shop.test") == ({"127.0.0.2"} if rcode == "NOERROR" else {"127.0.0.1"})
    assert bool(kept) == (rcode == "NOERROR")


def test_a_prerequisite_with_a_time_to_live_is_malformed(server: DnsServer, kept: Kept) -> None:
    update = new_update()
    update.present("db", "A", "127.0.0.1")
    update.prerequisite[0].ttl = 5  # RFC 2136, 2.4: must be zero
    update.replace("db", 1, "A", "127.0.0.2")
    assert send(server, update) == "FORMERR"
    assert not kept


def test_an_update_is_done_wholly_or_not_at_all(server: DnsServer, kept: Kept) -> None:
    update = new_update()
    update.replace("db", 1, "A", "127.0.0.2")
    update.add(dns.name.from_text("db.other.test."), 1, "A", "127.0.0.2")
    assert send(server, update) == "NOTZONE"
    assert addresses(server, "db.shop.test") == {"127.0.0.1"}
    assert not kept


def test_records_are_added_and_deleted(server: DnsServer) -> None:
    update = new_update()
    update.add("db", 1, "A", "127.0.0.2")
    update.delete("pool", "A", "127.0.0.1")
    update.delete("alias")
    assert send(server, update) == "NOERROR"
    assert addresses(server, "db.shop.test") == {"127.0.0.1", "127.0.0.2"}
    assert addresses(server, "pool.shop.test") == {"127.0.0.2"}
    assert dns.rcode.to_text(ask(server, "alias.shop.test").rcode()) == "NXDOMAIN"


def test_the_zone_keeps_its_start_and_its_name_server(server: DnsServer) -> None:
    update = new_update()
    update.delete("@")
    update.delete("@", "NS", "ns.shop.test.")
    assert send(server, update) == "NOERROR"
    assert ask(server, "shop.test", "SOA").answer
    assert ask(server, "shop.test", "NS").answer


def test_an_alias_and_other_records_exclude_each_other(server: DnsServer) -> None:
    update = new_update()
    update.add("alias", 1, "A", "127.0.0.9")
    update.add("db", 1, "CNAME", "pool.shop.test.")
    assert send(server, update) == "NOERROR"
    assert addresses(server, "alias.shop.test") == {"db.shop.test."}
    assert addresses(server, "db.shop.test") == {"127.0.0.1"}


def test_another_zone_is_not_ours(server: DnsServer) -> None:
    update = new_update("other.test")
    update.replace("db", 1, "A", "127.0.0.2")
    assert send(server, update) == "NOTAUTH"


def test_what_cannot_be_kept_is_not_acknowledged(server: DnsServer, kept: Kept) -> None:
    kept.full = True
    update = new_update()
    update.replace("db", 1, "A", "127.0.0.2")
    assert send(server, update) == "SERVFAIL"
    assert addresses(server, "db.shop.test") == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (dns.tsig.Key("dr-key", "d3Jvbmc=", dns.tsig.HMAC_SHA256), dns.rcode.BADSIG),
        (dns.tsig.Key("nobody", KEY.secret, dns.tsig.HMAC_SHA256), dns.rcode.BADKEY),
        (dns.tsig.Key("dr-key", KEY.secret, dns.tsig.HMAC_SHA512), dns.rcode.BADKEY),
    ],
)
def test_bad_signatures_are_told_and_change_nothing(server: DnsServer, key: dns.tsig.Key, error: int) -> None:
    update = dns.update.UpdateMessage(
        "shop.test", keyring={key.name: key}, keyname=key.name, keyalgorithm=key.algorithm
    )
    update.replace("db", 1, "A", "127.0.0.2")
    answer = server.answer(update.to_wire())
    assert answer is not None
    response = dns.message.from_wire(answer, keyring=False)
    assert response.rcode() == dns.rcode.NOTAUTH
    assert response.tsig is not None
    assert response.tsig[0].error == error
    assert response.tsig[0].mac == b""
    assert addresses(server, "db.shop.test") == {"127.0.0.1"}


def test_an_unsigned_update_is_refused(server: DnsServer) -> None:
    update = dns.update.UpdateMessage("shop.test")
    update.replace("db", 1, "A", "127.0.0.2")
    answer = server.answer(update.to_wire())
    assert answer is not None
    assert dns.message.from_wire(answer).rcode() == dns.rcode.REFUSED
    assert addresses(server, "db.shop.test") == {"127.0.0.1"}


def test_other_requests_and_rubbish(server: DnsServer) -> None:
    notify = dns.message.make_query("shop.test", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    answer = server.answer(notify.to_wire())
    assert answer is not None
    assert dns.message.from_wire(answer).rcode() == dns.rcode.NOTIMP
    cut = server.answer(dns.message.make_query("db.shop.test", "A").to_wire()[:-3])
    assert cut is not None
    assert dns.message.from_wire(cut).rcode() == dns.rcode.FORMERR
    assert server.answer(b"hello") is None
    response = dns.message.make_response(dns.message.make_query("db.shop.test", "A"))
    assert server.answer(response.to_wire()) is None  # or two servers would answer each other for ever

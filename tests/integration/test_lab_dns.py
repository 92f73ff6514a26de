"""DNS updates through the lab's server process: signed, compared before they are set, and kept over a kill."""

from __future__ import annotations

import dns.asyncquery
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update
import pytest

from lab import Lab

NAME = "db.shop.test."


def update_of(lab: Lab, secret: str | None = None, key_name: str | None = None) -> dns.update.UpdateMessage:
    place = lab.dns()
    keyring = dns.tsigkeyring.from_text({key_name or place.tsig_key_name: secret or place.tsig_secret})
    return dns.update.UpdateMessage(place.zone, keyring=keyring, keyalgorithm=dns.tsig.HMAC_SHA256)


async def send(lab: Lab, update: dns.update.UpdateMessage) -> dns.rcode.Rcode:
    place = lab.dns()
    return (await dns.asyncquery.tcp(update, place.host, port=place.port, timeout=3)).rcode()


async def addresses(lab: Lab, name: str = NAME) -> list[str]:
    place = lab.dns()
    answer = await dns.asyncquery.udp(dns.message.make_query(name, "A"), place.host, port=place.port, timeout=3)
    return [rdata.address for rrset in answer.answer for rdata in rrset]


async def test_an_update_moves_the_name_and_a_second_one_with_old_expectations_does_not(lab: Lab) -> None:
    first, second = lab.postgres("region-a").host, lab.postgres("region-b").host
    swap = update_of(lab)
    swap.present(NAME, "A", first)
    swap.replace(NAME, 1, "A", second)
    assert await send(lab, swap) == dns.rcode.NOERROR
    assert await addresses(lab) == [second]
    again = update_of(lab)
    again.present(NAME, "A", first)
    again.replace(NAME, 1, "A", "127.0.0.9")
    assert await send(lab, again) == dns.rcode.NXRRSET
    assert await addresses(lab) == [second]
    await lab.kill("dns")
    await lab.restart("dns")
    assert await addresses(lab) == [second]
    back = update_of(lab)
    back.replace(NAME, 1, "A", first)
    assert await send(lab, back) == dns.rcode.NOERROR
    assert await addresses(lab) == [first]


async def test_a_wrong_secret_and_an_unknown_key_are_refused(lab: Lab) -> None:
    before = await addresses(lab)
    wrong = update_of(lab, secret="d3Jvbmc=")
    wrong.replace(NAME, 1, "A", "127.0.0.9")
    with pytest.raises(dns.tsig.PeerBadSignature):
        await send(lab, wrong)
    unknown = update_of(lab, key_name="somebody")
    unknown.replace(NAME, 1, "A", "127.0.0.9")
    with pytest.raises(dns.tsig.PeerBadKey):
        await send(lab, unknown)
    assert await addresses(lab) == before


async def test_an_unsigned_update_is_refused(lab: Lab) -> None:
    unsigned = dns.update.UpdateMessage(lab.dns().zone)
    unsigned.replace(NAME, 1, "A", "127.0.0.9")
    assert await send(lab, unsigned) == dns.rcode.REFUSED
    assert await addresses(lab) == [lab.postgres("region-a").host]

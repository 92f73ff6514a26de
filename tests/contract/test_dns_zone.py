"""The DnsZone port: the fake, the lab's server, BIND (where installed) and Route 53 must behave the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest

from recovery.adapters.rfc2136 import Rfc2136Zone, TsigKey
from recovery.domain.plan import DnsBefore
from recovery.errors import Contended
from recovery.ports.dns import DnsZone
from tests.contract import dns_servers, route53_zones
from tests.contract.dns_servers import KEY_NAME, RECORDS, SECRET, ZONE, Server
from tests.contract.moto_server import moto
from tests.contract.route53_front import route53
from tests.fakes.dns import FakeDnsZone


@dataclass
class Subject:
    zone: DnsZone
    zones: tuple[str, ...]


@pytest.fixture(scope="module")
async def amazon() -> AsyncIterator[str]:
    async with moto() as address:
        yield address


@pytest.fixture(params=["fake", "route53", *dns_servers.available()])
async def subject(
    request: pytest.FixtureRequest, amazon: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Subject]:
    if request.param == "route53":
        async with route53(amazon) as front:
            zone = route53_zones.client(front, await route53_zones.made_zone(front, ZONE, RECORDS))
            yield Subject(zone, (ZONE,))
            await zone.close()
        return
    if request.param == "fake":
        seen: dict[tuple[str, str], DnsBefore] = {}
        for name, ttl, kind, value in RECORDS:
            former = seen.get((name, kind))
            values = [*(former.values if former else []), value]
            seen[name, kind] = DnsBefore(name=f"{name}.{ZONE}", type=kind, ttl=ttl, values=values, zone=ZONE)
        yield Subject(FakeDnsZone(list(seen.values())), (ZONE, "other.test"))
        return
    async with dns_servers.running(request.param, tmp_path_factory.mktemp("dns")) as server:
        yield Subject(client(server), server.zones)


def client(server: Server) -> Rfc2136Zone:
    return Rfc2136Zone(server.host, server.port, key=TsigKey(KEY_NAME, SECRET), timeout=timedelta(seconds=3))


def record(name: str, *values: str, kind: str = "A", ttl: int = 60, zone: str = ZONE) -> DnsBefore:
    return DnsBefore(name=f"{name}.{zone}", type=kind, ttl=ttl, values=list(values), zone=zone)


async def current(subject: Subject, name: str, kind: str = "A", zone: str = ZONE) -> DnsBefore:
    return await subject.zone.read(f"{name}.{zone}", kind, zone)


async def test_reads_what_is_there(subject: Subject) -> None:
    assert await current(subject, "db") == record("db", "192.0.2.1")
    many = await current(subject, "many")
    assert (sorted(many.values), many.ttl) == (["192.0.2.1", "192.0.2.2"], 30)
    assert (await current(subject, "alias", "CNAME")).values == ["db.shop.test."]
    assert (await current(subject, "text", "TXT")).values == ['"hello world"']


async def test_missing_name_and_missing_type_read_as_empty(subject: Subject) -> None:
    for found in (await current(subject, "nowhere"), await current(subject, "db", "AAAA")):
        assert (found.values, found.ttl) == ([], 0)


async def test_switch_and_undo(subject: Subject) -> None:
    before = await current(subject, "db")
    after = record("db", "198.51.100.7", ttl=5)
    await subject.zone.replace([(before, after)])
    assert await current(subject, "db") == after
    await subject.zone.replace([(after, before)])
    assert await current(subject, "db") == before


async def test_a_change_that_was_made_settles(subject: Subject) -> None:
    before, after = await current(subject, "db"), record("db", "198.51.100.7")
    await subject.zone.replace([(before, after)])
    assert await subject.zone.settle([after]) == []


async def test_several_records_change_together(subject: Subject) -> None:
    db, many = await current(subject, "db"), await current(subject, "many")
    fresh = await current(subject, "fresh")
    await subject.zone.replace(
        [
            (db, record("db", "198.51.100.1")),
            (many, record("many", "198.51.100.2", "198.51.100.3")),
            (fresh, record("fresh", "198.51.100.4")),
        ]
    )
    assert (await current(subject, "db")).values == ["198.51.100.1"]
    assert sorted((await current(subject, "many")).values) == ["198.51.100.2", "198.51.100.3"]
    assert (await current(subject, "fresh")).values == ["198.51.100.4"]


async def test_removing_and_creating(subject: Subject) -> None:
    db = await current(subject, "db")
    await subject.zone.replace([(db, record("db"))])
    gone = await current(subject, "db")
    assert gone.values == []
    await subject.zone.replace([(gone, db)])
    assert (await current(subject, "db")).values == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("db", ["192.0.2.9"]),
        ("many", ["192.0.2.1"]),
        ("db", ["192.0.2.1", "192.0.2.9"]),
        ("db", []),
        ("gone", ["192.0.2.1"]),
    ],
    ids=["other value", "one of two", "one too many", "seen as absent", "seen as present"],
)
async def test_a_record_edited_meanwhile_changes_nothing(subject: Subject, name: str, seen: list[str]) -> None:
    text = await current(subject, "text", "TXT")
    changes = [
        (text, record("text", '"changed"', kind="TXT")),
        (record(name, *seen), record(name, "198.51.100.1")),
    ]
    with pytest.raises(Contended):
        await subject.zone.replace(changes)
    assert await current(subject, "text", "TXT") == text
    assert "198.51.100.1" not in (await current(subject, name)).values


async def test_repeating_a_change_that_was_made_succeeds(subject: Subject) -> None:
    change = (await current(subject, "db"), record("db", "198.51.100.7"))
    await subject.zone.replace([change])
    await subject.zone.replace([change])
    assert (await current(subject, "db")).values == ["198.51.100.7"]


async def test_case_and_final_dots_do_not_matter(subject: Subject) -> None:
    before = DnsBefore(name="DB.Shop.Test.", type="a", ttl=60, values=["192.0.2.1"], zone="shop.TEST.")
    await subject.zone.replace([(before, before.model_copy(update={"values": ["198.51.100.7"]}))])
    assert (await current(subject, "db")).values == ["198.51.100.7"]


async def test_two_zones_both_change(subject: Subject) -> None:
    if len(subject.zones) < 2:
        return  # the lab's server has one zone only; the fake and BIND stand for the rest
    other = await current(subject, "db", zone="other.test")
    await subject.zone.replace(
        [
            (await current(subject, "db"), record("db", "198.51.100.1")),
            (other, record("db", "198.51.100.2", zone="other.test")),
        ]
    )
    assert (await current(subject, "db")).values == ["198.51.100.1"]
    assert (await current(subject, "db", zone="other.test")).values == ["198.51.100.2"]


async def test_when_the_second_zone_is_contended_the_first_is_put_back(subject: Subject) -> None:
    if len(subject.zones) < 2:
        return
    with pytest.raises(Contended):
        await subject.zone.replace(
            [
                (await current(subject, "db"), record("db", "198.51.100.1")),
                (record("db", "192.0.2.5", zone="other.test"), record("db", "198.51.100.2", zone="other.test")),
            ]
        )
    assert (await current(subject, "db")).values == ["192.0.2.1"]
    assert (await current(subject, "db", zone="other.test")).values == []

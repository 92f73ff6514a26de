"""What a group's records hold while a region is active."""

from __future__ import annotations

from datetime import timedelta

import pytest

from recovery.domain.dns_records import pointed_at, same, words
from recovery.domain.group import DnsRecord, GroupSnapshot, Objectives, RegionPlan
from recovery.domain.plan import AliasTarget, DnsBefore
from recovery.errors import Refused

ZONE = "shop.test"


def group(**of_b: str) -> GroupSnapshot:
    return GroupSnapshot(
        name="shop",
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="a",
        regions=[
            RegionPlan(name="a", task_queue="a", dns_value="192.0.2.1", dns_ipv6="2001:db8::1"),
            RegionPlan(name="b", task_queue="b", **of_b),
        ],
    )


def before(**changed: object) -> DnsBefore:
    return DnsBefore(name="db.shop.test", type="A", ttl=300, values=["192.0.2.1"], zone=ZONE).model_copy(update=changed)


def test_a_simple_record_takes_the_regions_value_and_the_configured_time_to_live() -> None:
    after = pointed_at(group(dns_value="192.0.2.2"), DnsRecord(name="db.shop.test", zone=ZONE), before(), "b")
    assert (after.values, after.ttl, after.alias, after.weight) == (["192.0.2.2"], 60, None, None)


def test_an_ipv6_record_takes_its_own_value() -> None:
    record = DnsRecord(name="db.shop.test", type="AAAA", zone=ZONE)
    there = group(dns_value="192.0.2.2", dns_ipv6="2001:db8::2")
    assert pointed_at(there, record, before(type="AAAA"), "b").values == ["2001:db8::2"]
    with pytest.raises(Refused, match=r"groups\.shop\.regions\.b\.dns_ipv6"):
        pointed_at(group(dns_value="192.0.2.2"), record, before(type="AAAA"), "b")


def test_with_the_zone_of_a_load_balancer_address_records_become_aliases() -> None:
    there = group(dns_value="lb.b.test", dns_alias_zone="Z32O12XQLNTSW2")
    record = DnsRecord(name="db.shop.test", zone=ZONE, evaluate_target_health=False)
    after = pointed_at(there, record, before(), "b")
    assert after.alias == AliasTarget(hosted_zone="Z32O12XQLNTSW2", name="lb.b.test", evaluate_target_health=False)
    assert (after.values, after.ttl) == ([], 0)
    named = DnsRecord(name="db.shop.test", type="CNAME", zone=ZONE)
    assert pointed_at(there, named, before(type="CNAME"), "b").values == ["lb.b.test"]


def test_a_member_without_a_region_keeps_its_weight_and_its_health_check() -> None:
    record = DnsRecord(name="db.shop.test", zone=ZONE, set_identifier="Primary", weight=100)
    stood = before(set_identifier="Primary", weight=100, health_check="hc-1")
    after = pointed_at(group(dns_value="192.0.2.2"), record, stood, "b")
    assert (after.values, after.weight, after.set_identifier, after.health_check) == (
        ["192.0.2.2"],
        100,
        "Primary",
        "hc-1",
    )


@pytest.mark.parametrize(("active", "weights"), [("a", [100, 0]), ("b", [0, 50])])
def test_members_with_regions_keep_their_values_and_the_weight_moves(active: str, weights: list[int]) -> None:
    members = [
        DnsRecord(name="db.shop.test", zone=ZONE, set_identifier="in-a", weight=100, region="a"),
        DnsRecord(name="db.shop.test", zone=ZONE, set_identifier="in-b", weight=50, region="b"),
    ]
    after = [pointed_at(group(dns_value="192.0.2.2"), member, before(), active) for member in members]
    assert [record.weight for record in after] == weights
    assert [record.values for record in after] == [["192.0.2.1"], ["192.0.2.2"]]


def test_spelling_and_time_to_live_do_not_make_a_difference_but_weight_and_health_do() -> None:
    assert same(before(values=["Db.Shop.Test."]), before(values=["db.shop.test"], ttl=1))
    assert same(before(values=["2001:DB8:0::1"]), before(values=["2001:db8::1"]))
    assert not same(before(weight=1), before(weight=0))
    alias = AliasTarget(hosted_zone="Z1", name="lb.test")
    assert not same(before(alias=alias), before(alias=alias.model_copy(update={"evaluate_target_health": False})))
    assert not same(before(values=[], alias=alias), before(values=[]))


def test_words() -> None:
    assert words(before(values=[])) == "absent"
    assert words(before(weight=0)) == "192.0.2.1 (weight 0)"
    assert words(before(values=[], alias=AliasTarget(hosted_zone="Z1", name="lb.test"))) == "alias of lb.test"

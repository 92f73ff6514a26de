"""Records and their providers: what belongs together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from recovery.config import Config
from recovery.config.mistakes import Mistake

RECORD = "{name: db.shop.test, type: A, ttl: 1}"
RFC2136 = """      provider: rfc2136
      server: 127.0.0.1:5353
      zone: shop.test
      tsig: {name: recovery-key, secret: env:DNS_TSIG_SECRET}
"""
ROUTE53 = "      provider: route53\n      zone: shop.test\n      zone_id: Z2FDTNDATAQYW2\n"
AMAZONS = (RFC2136, ROUTE53)


@pytest.mark.parametrize(
    ("passages", "path", "message"),
    [
        ([(RECORD, "{name: db.shop.test, set_identifier: a, weight: 1}")], "groups.shop.dns", "that is route53's"),
        ([AMAZONS, (RECORD, "{name: db.shop.test, weight: 1}")], "groups.shop.dns.records[0]", "together, or neither"),
        (
            [AMAZONS, (RECORD, "{name: db.shop.test, set_identifier: a, weight: 0, region: region-a}")],
            "groups.shop.dns.records[0]",
            "a weight above 0 beside region",
        ),
        (
            [AMAZONS, (RECORD, "{name: db.shop.test, set_identifier: a, weight: 1, region: region-x}")],
            "groups.shop.dns.records[0].region",
            "expected one of the group's regions: region-a, region-b",
        ),
        (
            [(RECORD, f"{RECORD}\n        - {RECORD}")],
            "groups.shop.dns",
            "expected each record once, and db.shop.test stands there twice",
        ),
        ([AMAZONS, ("zone_id", "access_key: env:A\n      zone_id")], "groups.shop.dns", "access_key and secret_key"),
        ([(RECORD, "{name: db.shop.test, type: AAAA}")], "groups.shop.regions.region-a.dns_ipv6", "2001:db8::10"),
    ],
)
def test_what_does_not_belong_together_is_said(
    spoiled: Callable[..., str],
    mistakes_of: Callable[[str], list[Mistake]],
    passages: list[tuple[str, str]],
    path: str,
    message: str,
) -> None:
    found = mistakes_of(spoiled(*passages))
    assert path in [mistake.key for mistake in found]
    assert any(message in mistake.text for mistake in found)


def test_a_member_for_each_region_reaches_the_plans(spoiled: Callable[..., str]) -> None:
    members = [f"{{name: db.shop.test, set_identifier: {region}, weight: 9, region: {region}}}" for region in REGIONS]
    config = Config.parse(spoiled(AMAZONS, (RECORD, "\n        - ".join(members))))
    records = config.snapshot("shop").records
    assert [(record.set_identifier, record.weight, record.region, record.ttl) for record in records] == [
        ("region-a", 9, "region-a", 60),
        ("region-b", 9, "region-b", 60),
    ]


REGIONS = ("region-a", "region-b")

"""Groups whose PostgreSQL runs at RDS: their kinds of backups, and the policies that go with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recovery.config import Config, Mistake

Spoil = Callable[..., str]
ROOT = Path(__file__).parents[3]
KINDS = ("backup:\n", "backup:\n      kinds: [physical, logical, snapshot]\n")
OWN = "    postgres:\n      databases: [shop]\n"


def at_rds(spoiled: Spoil, rds: str) -> str:
    return spoiled(KINDS, (OWN, f"    rds: {rds}\n{OWN}      managed_by: rds\n"))


def test_it_has_snapshots_and_no_base_backups(spoiled: Spoil) -> None:
    assert Config.parse(spoiled(KINDS)).snapshot("shop").backup_kinds == ["physical", "logical"]
    rds = "{instances: {region-a: shop}, snapshot_copies: [region-b], kms_keys: {region-b: alias/shop}}"
    config = Config.parse(at_rds(spoiled, rds))
    found = config.snapshot("shop")
    assert found.backup_kinds == ["logical", "snapshot"]
    assert found.managed is not None
    assert (found.managed.snapshot_copies, found.managed.kms_keys) == (["region-b"], {"region-b": "alias/shop"})
    assert not [each for each in config.warnings() if "rds" in each]


def test_snapshots_in_one_region_are_warned_of(spoiled: Spoil) -> None:
    (warning,) = [
        each for each in Config.parse(at_rds(spoiled, "{instances: {region-a: shop}}")).warnings() if "rds" in each
    ]
    assert warning.startswith("groups.shop.rds.snapshot_copies: snapshots of region-a stay there and are lost with it")


@pytest.mark.parametrize(
    ("rds", "said"),
    [
        ("{instances: {region-b: shop}}", "expected the instance of region-a too, the group's home"),
        ("{instances: {region-a: shop}, snapshot_copies: [mars-1]}", "the group's regions only, and mars-1 is none"),
        ("{instances: {region-a: shop}, kms_keys: {mars-1: k}}", "the group's regions only, and mars-1 is none"),
        (
            "{instances: {region-a: shop}, security_groups: {mars-1: [sg-0a1b2c3d]}}",
            "the group's regions only, and mars-1",
        ),
    ],
)
def test_what_is_wrong_is_said(
    spoiled: Spoil, mistakes_of: Callable[[str], list[Mistake]], rds: str, said: str
) -> None:
    assert any(said in mistake.text for mistake in mistakes_of(at_rds(spoiled, rds)))

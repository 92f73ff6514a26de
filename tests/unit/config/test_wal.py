"""The WAL archive's part of the configuration."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from recovery.config import Config, Mistake
from recovery.domain.group import WalRule

Spoil = Callable[..., str]
Find = Callable[[str], list[Mistake]]


def test_without_it_no_wal_is_archived(minimal: str, spoiled: Spoil) -> None:
    assert Config.parse(minimal).snapshot("shop").wal is None
    switched_off = spoiled(("backup:\n", "backup:\n      wal: {enabled: false, flush_interval: 1s}\n"))
    assert Config.parse(switched_off).snapshot("shop").wal is None


def test_what_is_configured_reaches_the_runs(spoiled: Spoil) -> None:
    text = spoiled(("backup:\n", "backup:\n      wal: {enabled: true, flush_interval: 1s, retained_warning: 1GiB}\n"))
    found = Config.parse(text).snapshot("shop").wal
    assert found == WalRule(flush_interval=timedelta(seconds=1), retained_warning=1 << 30)


@pytest.mark.parametrize(
    ("wal", "said"),
    [
        ("{enabled: true, slot: Wal-1}", "slot"),
        ("{enabled: true, retained_warning: 2GiB, retained_critical: 1GiB}", "retained_critical of at least"),
        ("{enabled: true, optional_locations: [nowhere]}", "nowhere is none of them"),
        ("{enabled: true, flush_interval: 0s}", "flush_interval"),
    ],
)
def test_mistakes_have_their_sentences(spoiled: Spoil, mistakes_of: Find, wal: str, said: str) -> None:
    found = mistakes_of(spoiled(("backup:\n", f"backup:\n      wal: {wal}\n")))
    assert any(said in mistake.sentence("recovery.yaml") for mistake in found)


def test_one_location_must_have_the_wal(minimal: str, spoiled: Spoil, mistakes_of: Find) -> None:
    names = ", ".join(Config.parse(minimal).snapshot("shop").locations)
    text = spoiled(("backup:\n", f"backup:\n      wal: {{enabled: true, optional_locations: [{names}]}}\n"))
    assert any("expected a location that is not optional" in mistake.text for mistake in mistakes_of(text))


def test_two_groups_do_not_archive_one_server_through_one_slot(minimal: str, mistakes_of: Find) -> None:
    """Each archiver would end the other one's session for ever, and neither would get on."""
    before, shop = minimal.split("  shop:\n")
    shop, _, after = shop.partition("\n\n")
    archived = shop.replace("backup:\n", "backup:\n      wal: {enabled: true}\n")

    def both(second: str) -> str:
        return f"{before}  shop:\n{archived}\n  copy:\n{second}\n\n{after}"

    (found,) = mistakes_of(both(archived))
    said = found.sentence("recovery.yaml")
    assert "groups.copy.backup.wal.slot" in said and "group shop archives WAL of the same server" in said
    Config.parse(both(archived.replace("enabled: true", "enabled: true, slot: of_the_copy")))
    Config.parse(both(shop))
    Config.parse(both(archived.replace("127.0.0.1", "127.0.0.9")))

"""How base backups are taken: the configuration's part."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from recovery.config import Config, Mistake
from recovery.domain.group import BaseBackupRule

Spoil = Callable[..., str]
Find = Callable[[str], list[Mistake]]


def test_without_a_word_each_is_a_full_one_of_the_primary(minimal: str) -> None:
    assert Config.parse(minimal).snapshot("shop").base_backup == BaseBackupRule()


def test_what_is_configured_reaches_the_runs(spoiled: Spoil) -> None:
    text = spoiled(("backup:\n", "backup:\n      postgres: {source: standby, standby_lag: 5s, incrementals: 6}\n"))
    found = Config.parse(text).snapshot("shop").base_backup
    assert found == BaseBackupRule(from_standby=True, standby_lag=timedelta(seconds=5), incrementals=6)


@pytest.mark.parametrize(
    "text", ["{source: replica}", "{standby_lag: 0s}", "{incrementals: -1}", "{incrementals: 101}"]
)
def test_mistakes_are_named(spoiled: Spoil, mistakes_of: Find, text: str) -> None:
    found = mistakes_of(spoiled(("backup:\n", f"backup:\n      postgres: {text}\n")))
    assert any("groups.shop.backup.postgres" in mistake.sentence("recovery.yaml") for mistake in found)


def test_an_older_server_takes_no_incremental_ones(spoiled: Spoil, mistakes_of: Find) -> None:
    incremental = ("backup:\n", "backup:\n      postgres: {incrementals: 6}\n")
    for major, wrong in ((16, True), (17, False), (18, False)):
        text = spoiled(
            incremental, ("    postgres:\n      databases", f"    postgres:\n      major: {major}\n      databases")
        )
        found = [mistake.sentence("recovery.yaml") for mistake in mistakes_of(text)] if wrong else []
        assert any("expected 0 with PostgreSQL 16" in sentence for sentence in found) is wrong, found
        if not wrong:
            Config.parse(text)

"""Whether a base backup is streamed from a standby, from which one, and what ends it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, cast

import pytest

from recovery.adapters.logins import Logins
from recovery.adapters.postgres.physical import PhysicalSource
from recovery.adapters.postgres.replication import BackupEnd, BackupHeader
from recovery.adapters.postgres.standby_source import ChosenStandby
from recovery.adapters.postgres_chains import PostgresChains
from recovery.adapters.postgres_points import PostgresPoints
from recovery.domain.group import (
    BaseBackupRule,
    GroupSnapshot,
    Objectives,
    PostgresAt,
    RegionPlan,
    ReplicaRule,
    ReplicationRule,
)
from recovery.domain.recovery_point import BackupKind
from recovery.errors import NotFound, SourceFailed
from recovery.ports.postgres import BackupSource, BaseBackupOptions, IncrementalBase, PostgresLogin, PostgresRecovery
from recovery.ports.recovery_points import BackupOrder
from tests.fakes.points import NOW
from tests.fakes.postgres import FakePostgres


class RegionLogins:
    """Each region's name is its host; of ``b`` the password is not on this machine."""

    async def backup(self, group: str, region: str) -> PostgresLogin:
        if region == "b":
            raise NotFound("env:PASSWORD is not set")
        return PostgresLogin(region, 5432)

    admin = backup


@dataclass
class Asked:
    """Takes the candidate that is close, if any."""

    close: str | None
    candidates: list[str] = field(default_factory=list)
    seconds: float = 0.0

    async def __call__(
        self, primary: PostgresLogin, candidates: Mapping[str, PostgresLogin], seconds: float
    ) -> ChosenStandby:
        assert primary.host == "a"
        self.candidates, self.seconds = list(candidates), seconds
        if self.close is None:
            return ChosenStandby(passed_over=dict.fromkeys(candidates, "it lags"))
        return ChosenStandby(self.close, candidates[self.close])


class NotingPostgres(FakePostgres):
    options: BaseBackupOptions

    def physical_source(self, *arguments: Any) -> AbstractAsyncContextManager[BackupSource]:
        self.options = arguments[2]
        return super().physical_source(*arguments)


def _group(**rule: Any) -> GroupSnapshot:
    sites = {"a": "one", "b": None, "c": None, "d": None, "e": "one"}
    return GroupSnapshot(
        name="shop",
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="a",
        regions=[
            RegionPlan(name=name, site=site, task_queue=name, postgres=PostgresAt(host=name))
            for name, site in sites.items()
        ],
        replication=ReplicationRule(replicas=[ReplicaRule(region="d", lag_limit=timedelta(seconds=5), priority=50)]),
        base_backup=BaseBackupRule(**rule),
    )


def _points(asked: Asked, postgres: NotingPostgres) -> PostgresPoints:
    return PostgresPoints(
        lambda group, region: cast(PostgresRecovery, postgres),
        cast(Logins, RegionLogins()),
        lambda group: "spread",
        choose=asked,
    )


@pytest.fixture(autouse=True)
def _no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Held:
        def __init__(self, login: PostgresLogin, *rest: object) -> None:
            assert login.host == "a", "the primary keeps the lock: one backup of a cluster at a time, whoever streams"

        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *error: object) -> None: ...

    monkeypatch.setattr("recovery.adapters.postgres_points.backup_lock", Held)


async def _options(asked: Asked, chains: PostgresChains | None = None, **rule: Any) -> BaseBackupOptions:
    postgres = NotingPostgres()
    order = BackupOrder(
        group=_group(**rule),
        region="a",
        kind=BackupKind.PHYSICAL,
        point_id="20261122T101500Z-physical-1a2b3c4d",
        run_id="run",
        attempt=1,
        started_at=NOW,
    )
    async with replace(_points(asked, postgres), chains=chains).opened(order, lambda done, expected, what: None):
        return postgres.options


async def test_the_primary_streams_unless_a_standby_is_asked_for() -> None:
    asked = Asked("e")
    assert await _options(asked) == BaseBackupOptions("spread")
    assert asked.candidates == []


async def test_a_standby_of_the_same_site_is_asked_first_then_by_priority() -> None:
    asked = Asked("d")
    options = await _options(asked, from_standby=True, standby_lag=timedelta(seconds=7))
    assert asked.candidates == ["e", "d", "c"]
    assert (options.standby, options.standby_seconds, asked.seconds) == (PostgresLogin("d", 5432), 7.0, 7.0)
    assert options.notes == ()


async def test_without_a_close_standby_the_primary_is_backed_up_and_the_point_says_why() -> None:
    options = await _options(Asked(None), from_standby=True)
    assert options.standby is None
    assert len(options.notes) == 1
    assert options.notes[0].startswith("no standby was close enough, so the primary itself is backed up (")
    assert "b: env:PASSWORD is not set" in options.notes[0]
    assert "d: it lags" in options.notes[0]


@pytest.mark.parametrize("close", ["d", None])
async def test_the_server_that_streams_decides_what_the_next_one_builds_on(close: str | None) -> None:
    asked: list[str] = []

    class Chains:
        async def base_for(self, group: GroupSnapshot, login: PostgresLogin) -> tuple[IncrementalBase | None, str]:
            asked.append(login.host)
            return (IncrementalBase(("full",), b"{}"), "") if close else (None, "its summaries are off")

    options = await _options(Asked(close), cast(PostgresChains, Chains()), from_standby=True, incrementals=2)
    assert asked == [close or "a"]
    if close:
        assert options.base == IncrementalBase(("full",), b"{}")
    else:
        assert options.base is None
        assert options.notes[1:] == ("a full base backup: its summaries are off",)


def _streamed(end_timeline: int) -> PhysicalSource:
    class Ended:
        async def events(self) -> list[BackupEnd]:
            return [BackupEnd("0/5000000", end_timeline)]

    source = PhysicalSource(
        PostgresLogin("a", 5432), "point", options=BaseBackupOptions(standby=PostgresLogin("b", 5432))
    )
    source._header = BackupHeader("0/4000028", 1, 0)
    source._replication = cast(Any, Ended())
    return source


async def test_a_promotion_anywhere_in_the_cluster_ends_the_backup() -> None:
    with pytest.raises(SourceFailed, match=r"b:5432 is on timeline 2 .* began on timeline 1.*take another one"):
        _ = [stream async for stream in _streamed(2).artefacts()]
    assert [stream async for stream in _streamed(1).artefacts()] == []

"""What stands in the way of a restore is said before anything is fetched or changed, with what to do about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from recovery.adapters.logins import Logins
from recovery.adapters.restores import PostgresRestores
from recovery.backup.pipeline import write_point
from recovery.backup.sealing import Opener, Sealer, generate_age_key
from recovery.domain.group import PostgresAt
from recovery.domain.plan import RestoredServer
from recovery.domain.recovery_point import BackupKind, CheckResult, PostgresSource, VerdictState
from recovery.ports.postgres import (
    BackupSource,
    PointReader,
    PostgresLogin,
    PostgresPlace,
    PostgresRecovery,
    Restored,
    RestoreOptions,
)
from recovery.ports.recovery_points import RestoreOrder
from tests.fakes.points import FakeSource, identity, pg_source, signer
from tests.unit.points.rig import BUDGET, NoLogins, Rig

PLENTY = 1 << 40


@dataclass
class Host:
    installed: dict[int, str] = field(default_factory=lambda: {16: "16.14"})
    free: int = PLENTY
    empty: bool = True
    extensions_here: set[str] | None = field(default_factory=lambda: {"plpgsql", "vector"})

    async def extensions(self, major: int) -> set[str] | None:
        assert major in self.installed, "only asked of what is installed"
        return self.extensions_here

    async def majors(self) -> dict[int, str]:
        return self.installed

    async def free_bytes(self, path: Path) -> int:
        return self.free

    async def is_empty(self, place: PostgresPlace) -> bool:
        return self.empty


@dataclass
class Engine:
    """Notes the calls that change something."""

    host: Host = field(default_factory=Host)
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    async def set_database_read_only(self, login: PostgresLogin, database: str, read_only: bool) -> None:
        self.calls.append(("database read-only", login.address, database, read_only))

    async def set_read_only(self, place: PostgresPlace, read_only: bool) -> None:
        self.calls.append(("read-only", place.port, read_only))

    async def verify_restored(
        self, manifest: object, login: PostgresLogin, critical: Sequence[str], *, database: str | None = None
    ) -> list[CheckResult]:
        self.calls.append(("verify", login.database, database, list(critical)))
        return []

    async def restore_physical(
        self, reader: PointReader, place: PostgresPlace, options: RestoreOptions, progress: object
    ) -> Restored:
        self.calls.append(("restore", options.restore_id, options.proven))
        return Restored(place, 0)

    async def remove_restored(self, place: PostgresPlace, restore_id: str) -> bool:
        self.calls.append(("remove", place.data_directory, restore_id))
        return True

    async def remove_restored_database(self, login: PostgresLogin, database: str, restore_id: str) -> bool:
        self.calls.append(("remove database", database, restore_id))
        return True


@dataclass
class Target:
    restores: PostgresRestores
    engine: Engine
    order: RestoreOrder
    rig: Rig

    async def refusals(self) -> dict[str, str]:
        checks = await self.restores.verify_infrastructure(self.order)
        assert len(checks) == 6
        return {check.name: check.detail for check in checks if not check.passed}


@pytest.fixture
def target(rig: Rig) -> Target:
    engine = Engine()
    place = PostgresAt(host="127.0.0.9", port=5999, data_directory="/srv/restored")
    regions = [region.model_copy(update={"postgres": place}) for region in rig.group.regions]
    group = rig.group.model_copy(update={"regions": regions})
    restores = PostgresRestores(
        catalogue=rig.points.catalogue,
        keys=rig.points.keys,
        postgres=lambda group, region: cast(PostgresRecovery, engine),
        logins=cast(Logins, NoLogins()),
    )
    return Target(restores, engine, RestoreOrder(group, "region-b", rig.point_id, "restore-1"), rig)


async def test_a_suitable_target_is_taken(target: Target) -> None:
    assert await target.refusals() == {}


async def test_a_wrong_major_version_is_refused_with_both(target: Target) -> None:
    target.engine.host.installed = {15: "15.9", 18: "18.4"}
    assert await target.refusals() == {
        "server version": "PostgreSQL 16 is needed; installed here: 15 (15.9), 18 (18.4)"
    }


async def test_missing_space_is_refused_with_both_sizes(target: Target) -> None:
    target.engine.host.free = target.rig.manifest.plain_bytes
    found = await target.refusals()
    assert list(found) == ["disk space"]
    assert "needed at /srv/restored" in found["disk space"]


async def test_an_occupied_target_is_refused_with_what_to_do(target: Target) -> None:
    target.engine.host.empty = False
    found = await target.refusals()
    assert list(found) == ["empty target"]
    assert "/srv/restored is not empty or 127.0.0.9:5999 is in use" in found["empty target"]
    assert "name another target, or move what is there" in found["empty target"]


@pytest.mark.parametrize("major", [16, 18])
async def test_extensions_that_this_machine_lacks_are_named_and_stop_no_recovery(
    target: Target, monkeypatch: pytest.MonkeyPatch, major: int
) -> None:
    """The cluster starts without them, and nobody could overrule a refusal."""
    point = await target.restores._point(target.order)
    needed = ["shop.plpgsql 1.0", "my.db.sky_map 2.1", "shop.vector 0.8.0"]
    source = point.manifest.postgres.model_copy(update={"extensions": needed, "major": major})
    point = point.model_copy(update={"manifest": point.manifest.model_copy(update={"source": source})})
    monkeypatch.setattr(target.restores, "_point", AsyncMock(return_value=point))
    target.engine.host.installed = {major: f"{major}.1"}
    checks = {check.name: check for check in await target.restores.verify_infrastructure(target.order)}
    check = checks["extensions"]
    assert check.passed
    assert check.warning.startswith(f"PostgreSQL {major} on this machine lacks sky_map: install the packages")
    assert f"postgresql-{major}-sky-map" in check.warning
    target.engine.host.extensions_here = None
    (unknown,) = [
        check for check in await target.restores.verify_infrastructure(target.order) if "not known" in check.detail
    ]
    assert unknown.passed


async def test_a_target_is_looked_at_where_its_own_worker_reaches_it(target: Target) -> None:
    """Who loaded the run's snapshot may reach it through an address at which somebody else listens."""
    target.restores.here = lambda group, region: PostgresAt(host="127.0.0.10", port=5998)
    target.engine.host.empty = False
    assert "/srv/restored is not empty or 127.0.0.10:5998 is in use" in (await target.refusals())["empty target"]


async def test_a_missing_key_is_refused(target: Target) -> None:
    target.restores.keys.opener = None
    found = await target.refusals()
    assert list(found) == ["key"]
    assert "set keys.identities" in found["key"]


async def test_a_wrong_key_is_refused_before_any_download(target: Target) -> None:
    stranger = generate_age_key()
    async with Opener([stranger.secret]) as opener:
        target.restores.keys.opener = opener
        found = await target.refusals()
    assert list(found) == ["key"]
    assert stranger.public in found["key"]
    assert [key for store in target.rig.stores for key in store.fetched_objects] == []


class Session:
    """What a running server says of itself."""

    def __init__(self) -> None:
        self.version, self.databases, self.folder = "16.14", ["postgres"], ""
        self.occupied: list[str] = []
        self.extensions = ["plpgsql", "vector"]

    async def fetchval(self, query: str) -> str | None:
        return self.version if "server_version" in query else self.folder or None

    async def fetch(self, query: str) -> list[dict[str, str]]:
        return [{"name": name} for name in (self.extensions if "extensions" in query else self.databases)]

    def get_server_version(self) -> SimpleNamespace:
        return SimpleNamespace(major=int(self.version.partition(".")[0]))


class DumpedShop(FakeSource):
    async def finish(self) -> PostgresSource:
        return pg_source(databases=["shop"], cluster_bytes=100_000_000, extensions=["shop.vector 0.8.0"])


@pytest.fixture
async def running(target: Target, sealer: Sealer, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A running server that a logical point is to be restored into."""
    session = Session()

    @asynccontextmanager
    async def connected(login: PostgresLogin, what: str) -> AsyncIterator[Session]:
        yield session

    async def is_occupied(login: PostgresLogin) -> bool:
        return login.database in session.occupied

    monkeypatch.setattr("recovery.adapters.restores.connected", connected)
    monkeypatch.setattr("recovery.adapters.restores._is_occupied", is_occupied)
    source = DumpedShop({"globals.sql": [b"x"], "shop.dump": [b"y"]}, kind=BackupKind.LOGICAL)
    point_id = "20261122T101500Z-logical-1a2b3c4d"
    written = await write_point(
        cast(BackupSource, source),
        identity=replace(identity(), point_id=point_id),
        stores=target.rig.stores,
        sealer=sealer,
        signer=signer(),
        budget=BUDGET,
    )
    target.order = replace(target.order, point_id=written.manifest.point_id)
    return session


async def logical_refusals(target: Target) -> dict[str, str]:
    checks = await target.restores.verify_infrastructure(target.order)
    assert [check.name for check in checks] == [
        "recovery point", "key", "target server", "extensions", "server version", "disk space", "empty target",
    ]  # fmt: skip
    return {check.name: check.detail for check in checks if not check.passed}


async def test_a_suitable_server_is_taken(target: Target, running: Session) -> None:
    assert await logical_refusals(target) == {}
    running.version, running.databases = "18.4", ["postgres", "shop"]  # a newer one, and a database that is empty
    assert await logical_refusals(target) == {}


async def test_an_older_server_is_refused_with_both_versions(target: Target, running: Session) -> None:
    running.version = "15.9"
    assert await logical_refusals(target) == {"server version": "PostgreSQL 16 or later is needed; 127.0.0.1:1 is 15.9"}


async def test_a_server_that_lacks_an_extension_is_refused_with_its_name(target: Target, running: Session) -> None:
    running.extensions = ["plpgsql"]
    found = await logical_refusals(target)
    assert list(found) == ["extensions"]
    assert found["extensions"].startswith("PostgreSQL 16 at 127.0.0.1:1 lacks vector: install the packages")


async def test_a_database_that_holds_something_is_refused_with_what_to_do(target: Target, running: Session) -> None:
    running.databases, running.occupied = ["postgres", "shop"], ["shop"]
    found = await logical_refusals(target)
    assert list(found) == ["empty target"]
    assert "database shop at 127.0.0.1:1 is not empty" in found["empty target"]
    assert "Name another one with --target-database" in found["empty target"]


async def test_a_server_on_this_machine_without_room_is_refused(
    target: Target, running: Session, tmp_path: Path
) -> None:
    running.folder = str(tmp_path)
    target.engine.host.free = 100_000_000
    (tmp_path / "postmaster.pid").write_text("4711\n/data\n1\n5432\n")
    assert await logical_refusals(target) == {}, (
        "this folder's server has another port: it is not the one that is meant"
    )
    (tmp_path / "postmaster.pid").write_text("4711\n/data\n1\n1\n")
    found = await logical_refusals(target)
    assert list(found) == ["disk space"]
    assert found["disk space"].endswith("free: free some, or restore into a server with a larger disk")


def restored(target: Target, kind: BackupKind, databases: list[str]) -> RestoredServer:
    return RestoredServer(
        region="region-b",
        host="127.0.0.9",
        port=5999,
        database=databases[0],
        databases=databases,
        kind=kind,
        data_directory="/srv/restored" if kind is BackupKind.PHYSICAL else None,
        point_id=target.rig.point_id,
    )


async def test_clients_are_let_into_every_database_of_a_logical_restore(target: Target) -> None:
    await target.restores.open_writes(target.order.group, restored(target, BackupKind.LOGICAL, ["shop", "stock"]))
    assert target.engine.calls == [
        ("database read-only", "127.0.0.9:5999", "shop", False),
        ("database read-only", "127.0.0.9:5999", "stock", False),
    ]


async def test_clients_are_let_into_a_physical_restore(target: Target) -> None:
    await target.restores.open_writes(target.order.group, restored(target, BackupKind.PHYSICAL, ["shop"]))
    assert target.engine.calls == [("read-only", 5999, False)]


@pytest.mark.parametrize(
    ("kind", "databases", "renamed"),
    [
        (BackupKind.LOGICAL, ["copy"], "copy"),
        (BackupKind.LOGICAL, ["shop", "stock"], None),
        (BackupKind.PHYSICAL, ["shop"], None),
    ],
)
async def test_every_database_of_a_restore_is_verified(
    target: Target, kind: BackupKind, databases: list[str], renamed: str | None
) -> None:
    await target.restores.verify(target.order.group, restored(target, kind, databases))
    ((_, _, database, _),) = target.engine.calls
    assert database == renamed


async def test_the_files_of_a_point_are_compared_unless_its_newest_verdict_says_valid(target: Target) -> None:
    async def restore() -> tuple[Any, ...]:
        await target.restores.restore(target.order, lambda done, expected, what: None)
        return target.engine.calls.pop()

    assert await restore() == ("restore", "restore-1", False)
    assert (await target.rig.validate())[0] is VerdictState.VALID
    assert await restore() == ("restore", "restore-1", True)
    for store in target.rig.stores:
        key = target.rig.manifest.artefacts[0].objects[0].key
        target.rig.change(store, key, b"damaged")
    assert (await target.rig.validate("run-2"))[0] is VerdictState.CORRUPT
    assert await restore() == ("restore", "restore-1", False)


async def test_the_undo_needs_no_readable_point(target: Target) -> None:
    """On the worst day the locations may be gone when a restore is undone."""
    for store in target.rig.stores:
        await store.delete(list(store.objects))
    assert await target.restores.remove(target.order)
    assert target.engine.calls == [("remove", Path("/srv/restored"), "restore-1")]

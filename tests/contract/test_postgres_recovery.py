"""One contract for ``PostgresRecovery``: the fake that other tests use, and real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from recovery.domain.recovery_point import BackupKind, VerdictState
from recovery.errors import BadInput, Corrupt, Refused, Unreachable
from recovery.ports.postgres import PostgresLogin, PostgresPlace, PostgresRecovery, RestoreOptions
from tests.fakes.postgres import FakePostgres
from tests.integration.postgres_servers import MemoryPoint, public_folder, running_source, take
from tests.ports import free_port


@dataclass
class Site:
    """Where the contract is tried: something to back up, and room to restore."""

    postgres: PostgresRecovery
    login: PostgresLogin
    folder: Path
    points: dict[BackupKind, MemoryPoint]

    def place(self) -> PostgresPlace:
        port = free_port()
        return PostgresPlace("127.0.0.1", port, self.folder / f"restored-{port}")

    @property
    def keeper(self) -> PostgresLogin:
        return self.login.at("postgres")


@pytest.fixture(scope="module", params=["fake", "real"])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(public_folder())
        postgres: PostgresRecovery
        if request.param == "fake":
            postgres, login = FakePostgres(), PostgresLogin("127.0.0.1", 1, database="shop")
        else:
            server = await stack.enter_async_context(running_source(folder))
            postgres, login = server.postgres, server.login
        points = {
            BackupKind.PHYSICAL: await take(postgres.physical_source(login, "point-p"), "point-p"),
            BackupKind.LOGICAL: await take(postgres.logical_source(login, "point-l", ["shop"]), "point-l"),
        }
        yield Site(postgres, login, folder, points)


async def test_a_source_gives_its_artefacts_and_then_its_identity(site: Site) -> None:
    physical, logical = site.points[BackupKind.PHYSICAL], site.points[BackupKind.LOGICAL]
    assert list(physical.content) == ["base.tar", "backup_manifest"]
    assert list(logical.content) == ["globals.sql", "shop.dump"]
    assert physical.manifest.postgres.stop_lsn is not None
    assert physical.manifest.postgres.canary is not None
    assert logical.manifest.postgres.databases == ["shop"]
    for point in site.points.values():
        assert point.manifest.postgres.major in await site.postgres.host.majors()


async def test_finish_before_the_end_is_a_programming_error(site: Site) -> None:
    async with site.postgres.physical_source(site.login, "point") as source:
        assert source.expected_bytes > 0
        with pytest.raises(RuntimeError, match="before all streams were read"):
            await source.finish()


async def test_a_physical_restore_is_idempotent_by_its_id_and_undone_by_it(site: Site) -> None:
    point, place = site.points[BackupKind.PHYSICAL], site.place()
    seen: list[tuple[int, int]] = []
    assert await site.postgres.host.is_empty(place)
    done = await site.postgres.restore_physical(
        point, place, RestoreOptions("r1"), lambda count, total: seen.append((count, total))
    )
    assert done.restored_bytes == point.manifest.plain_bytes
    assert seen[-1] == (point.manifest.plain_bytes, point.manifest.plain_bytes)
    assert await site.postgres.host.is_running(place)
    again = await site.postgres.restore_physical(MemoryPoint(point.manifest, {}), place, RestoreOptions("r1"))
    assert again == done
    with pytest.raises(Refused):
        await site.postgres.restore_physical(point, place, RestoreOptions("r2"))
    with pytest.raises(Refused):
        await site.postgres.remove_restored(place, "r2")
    await site.postgres.set_read_only(place, False)
    await site.postgres.host.stop(place)
    assert not await site.postgres.host.is_running(place)
    await site.postgres.host.start(place)
    assert await site.postgres.host.is_running(place)
    assert await site.postgres.remove_restored(place, "r1") is True
    assert await site.postgres.remove_restored(place, "r1") is False
    assert not await site.postgres.host.is_running(place)
    assert await site.postgres.host.is_empty(place)


async def test_a_physical_restore_that_cannot_be_leaves_an_empty_place(site: Site) -> None:
    point, place = site.points[BackupKind.PHYSICAL], site.place()
    torn = MemoryPoint(point.manifest, point.content, Corrupt("object 3 differs"))
    attempts: list[tuple[MemoryPoint, type[Exception]]] = [
        (torn, Corrupt),
        (point.changed(major=14), Refused),
        (site.points[BackupKind.LOGICAL], BadInput),
    ]
    for reader, kind in attempts:
        with pytest.raises(kind):
            await site.postgres.restore_physical(reader, place, RestoreOptions("r1"))
        assert await site.postgres.host.is_empty(place)
        assert await site.postgres.remove_restored(place, "r1") is False


async def test_a_logical_restore_is_idempotent_by_its_id_and_undone_by_it(site: Site) -> None:
    point = site.points[BackupKind.LOGICAL]

    def restore(reader: MemoryPoint, restore_id: str, name: str = "copy"):
        options = RestoreOptions(restore_id, read_only=False)
        return site.postgres.restore_logical(reader, site.keeper, options, source_database="shop", database=name)

    done = await restore(point, "r1")
    assert done.database == "copy"
    assert (await restore(MemoryPoint(point.manifest, {}), "r1")).database == "copy"
    for name in ("copy", "shop"):
        with pytest.raises(Refused):
            await restore(point, "r2", name)
        with pytest.raises(Refused):
            await site.postgres.remove_restored_database(site.keeper, name, "r2")
    results = await site.postgres.verify_restored(point.manifest, site.login.at("copy"), ["customers"], database="copy")
    assert results
    assert all(result.passed for result in results)
    await site.postgres.set_database_read_only(site.keeper, "copy", True)
    await site.postgres.set_database_read_only(site.keeper, "copy", False)
    assert await site.postgres.remove_restored_database(site.keeper, "copy", "r1") is True
    assert await site.postgres.remove_restored_database(site.keeper, "copy", "r1") is False
    with pytest.raises(BadInput):
        await site.postgres.restore_logical(
            site.points[BackupKind.PHYSICAL], site.keeper, RestoreOptions("r3"), source_database="shop"
        )


async def test_read_only_is_set_only_on_what_was_restored(site: Site) -> None:
    with pytest.raises(Refused, match="was not restored by recovery-plans"):
        await site.postgres.set_read_only(site.place(), True)


@pytest.mark.parametrize("kind", [BackupKind.PHYSICAL, BackupKind.LOGICAL])  # a snapshot is judged by its keeper
async def test_verdicts(site: Site, kind: BackupKind) -> None:
    point = site.points[kind]
    outcomes: list[tuple[Callable[[], MemoryPoint], VerdictState]] = [
        (lambda: point, VerdictState.VALID),
        (lambda: MemoryPoint(point.manifest, point.content, Corrupt("differs")), VerdictState.CORRUPT),
        (lambda: MemoryPoint(point.manifest, point.content, Unreachable("gone")), VerdictState.FAILED),
    ]
    for reader, expected in outcomes:
        state, reason, checks = await site.postgres.validate(reader(), site.folder / "scratch", ["customers"])
        assert (state, bool(reason)) == (expected, True), reason
        assert (expected is VerdictState.VALID) == (bool(checks) and all(check.passed for check in checks))

"""A group's WAL archive under write load, its worker and region lost: recoveries to moments that it reported."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from drctl.demo.installation import GROUP
from recovery.backup.wal.layout import archives_prefix
from recovery.domain.report import RunReport, RunState
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.domain.wal_progress import WalProgress
from tests.integration.installation import AWAY, HOME, Site, eventually, execute, installed_site
from tests.integration.ledger import SCHEMA, Ledger, writing
from tests.ports import free_port
from workers.wal_status import archive_status, archiver_status

TAKEOVER_SECONDS = 15


def with_wal(group: dict[str, Any]) -> None:
    group["backup"]["wal"] = {"enabled": True, "flush_interval": "1s"}


@dataclass
class Archived:
    """The archive of the group as its session reports it; ``told`` are all positions that were heard."""

    site: Site
    told: list[int] = field(default_factory=list)

    async def progress(self) -> WalProgress | None:
        found = (await archiver_status(self.site.client, GROUP)).progress
        if found is not None:
            self.told.append(lsn_order(found.archived))
        return found

    async def until(self, position: int, region: str = HOME) -> WalProgress:
        async def there() -> WalProgress | None:
            found = await self.progress()
            return found if found and found.region == region and lsn_order(found.archived) > position else None

        found = await eventually(there, 60, every=0.1)
        assert found is not None and found.gap is None
        return found

    async def kill_its_worker(self) -> None:
        description = await self.site.client.get_workflow_handle(f"wal/{GROUP}").describe()
        (pending,) = description.raw_description.pending_activities
        pid = int(pending.last_worker_identity.partition("@")[0])
        next(worker for worker in self.site.crew.workers if worker.process.pid == pid).kill()


async def ids_at(dsn: str, port: int | None = None) -> list[int]:
    connection = await asyncpg.connect(dsn, port=port)
    try:
        return [row["id"] for row in await connection.fetch("SELECT id FROM commits ORDER BY id")]
    finally:
        await connection.close()


async def transaction_of(dsn: str, number: int) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT xmin::text FROM commits WHERE id = $1", number))
    finally:
        await connection.close()


async def validated_point(site: Site) -> str:
    """The base backup that the archive itself asked for."""

    async def proven() -> str | None:
        points = await (await site.catalogue()).points(GROUP)
        return next((point.point_id for point in points if point.is_valid), None)

    found = await eventually(proven, 90, every=0.5)
    assert found is not None
    return found


async def restored(site: Site, **target: object) -> tuple[RunReport, list[int]]:
    """A copy beside the service at such a moment, and what it holds."""
    folder, port = site.lab.postgres(AWAY).data_directory.with_name(f"copy-{free_port()}"), free_port()
    report = await site.run("Restore", region=AWAY, target=target, target_directory=str(folder), target_port=port)
    assert report.state is RunState.COMPLETED, report.error
    away = site.lab.postgres(AWAY)
    return report, await ids_at(site.lab.postgres(HOME).dsn(host=away.host), port)


async def test_a_lost_region_comes_back_at_what_was_reported_as_archived() -> None:
    async with installed_site(with_wal) as site:
        home, away = site.lab.postgres(HOME), site.lab.postgres(AWAY)
        await execute(home.dsn(), SCHEMA)
        archived, ledger = Archived(site), Ledger(lambda: asyncpg.connect(home.dsn()), pause=0.01)
        async with writing(ledger):
            point_id = await validated_point(site)
            before = lsn_order((await archived.until(0)).archived)
            await archived.kill_its_worker()
            began = time.monotonic()
            await archived.until(max(archived.told))
            assert time.monotonic() - began < TAKEOVER_SECONDS, "another worker takes over"
            marked, at = len(ledger.commits), datetime.now(UTC)
            xid = await transaction_of(home.dsn(), marked)
            await execute(home.dsn(), "SELECT pg_create_restore_point('before the fire')")
            named = len(ledger.commits)
            await archived.until(ledger.commits[-1][2])
            await asyncio.sleep(random.uniform(0, 1))
            await archived.progress()
            await site.lab.kill(HOME, with_disks=True)
        outage, last = datetime.now(UTC), max(archived.told)

        report = await site.run("FullRecovery", target={"lsn": lsn_text(last)}, outage_began_at=outage)
        assert report.state is RunState.COMPLETED, report.error
        assert report.point_ids == [point_id]
        ledger.expect(await ids_at(home.dsn(host=away.host)), last)
        (restore,) = [step for step in report.steps if step.name == "restore-database"]
        assert "recovered to timeline 1" in restore.summary

        # The archive goes on at the new owner, on the timeline that forked there.
        await execute(home.dsn(host=away.host), "INSERT INTO commits VALUES (0, 'after')")
        after = await archived.until(last, AWAY)
        assert (after.timeline, after.epoch) == (2, 2)
        status = await archive_status(site.wiring, GROUP)
        (location,) = [each for each in status.locations if not each.error]
        assert [(each.timeline, each.gaps) for each in location.servers[0].timelines] == [(1, []), (2, [])]

        # Copies of earlier moments, before the fork.
        stop = lsn_order((await (await site.catalogue()).point(GROUP, point_id)).manifest.postgres.stop_lsn or "")
        some = random.choice([each for each in archived.told if before <= each <= last and each >= stop])
        report, ids = await restored(site, lsn=lsn_text(some))
        ledger.expect(ids, some)
        report, ids = await restored(site, time=at.isoformat())
        assert marked <= len(ids) <= marked + 1, "every commit until then, and none that began later"
        report, ids = await restored(site, name="before the fire", timeline=1)
        assert marked <= len(ids) <= named + 1
        report, ids = await restored(site, xid=xid, timeline=1)
        assert ids == list(range(1, marked + 1)), "the transaction, and nothing that was committed after it"
        report, ids = await restored(site, latest=True)
        assert ids[0] == 0, "what was written after the fork"

        refused = await site.run("Restore", region=AWAY, target={"lsn": "FFFF/0"}, target_directory="/nowhere")
        assert refused.state is RunState.ROLLED_BACK
        assert "lies outside of what can be reached: timeline 2 from" in refused.error

        await damage_is_found(site)


async def damage_is_found(site: Site) -> None:
    """The daily validation reads the archive back: of two locations one is lost, and one returns other bytes."""
    (store,) = [each for each in await site.stores() if each.name == f"store-{AWAY}"]
    keys = [info.key async for info in store.list(archives_prefix(GROUP)) if info.key.endswith(".zst.age")]
    await site.lab.corrupt(AWAY, "s3-object", key=f"points/{keys[0]}")
    report = await site.run("BackupValidation")
    assert (report.state, report.failed_step) == (RunState.ROLLED_BACK, "judge"), report.error
    assert "of timeline 1 cannot be read at any location" in report.error and "base backup" in report.error
    assert [check.passed for check in report.checks if check.name == "archived WAL"] == [False]
    assert any(f"at store-{AWAY}: " in words and keys[0] in words for words in report.warnings), report.warnings
    assert any(f"not read back at store-{HOME}: " in words for words in report.warnings), report.warnings

"""Backup, validation and restore of Redis as whole plans, on real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from recovery.adapters.redis.connection import connected
from recovery.adapters.redis.server_info import MARK_KEY
from recovery.domain.recovery_point import VerdictState
from recovery.domain.report import RunReport, RunState
from tests.integration.installation import AWAY, CACHE, HOME, REGIONS, Site
from tests.integration.redis_dumps import contents, fill, redis_of, writing
from workers import operations

KEYS = 2000
LOAD = "load:"


async def ask(site: Site, region: str, *words: str | int) -> Any:
    async with connected(redis_of(site.lab, region)) as connection:
        return await connection.run(*words)


async def delete_all(site: Site) -> None:
    for region in REGIONS:
        await ask(site, region, "FLUSHALL")


@pytest.fixture
async def filled(site: Site) -> AsyncIterator[Site]:
    """All types of values, some with an expiry, in three databases of the home region."""
    await delete_all(site)
    await fill(redis_of(site.lab, HOME), KEYS)
    yield site
    await delete_all(site)


async def run(site: Site, plan: str, **request: Any) -> RunReport:
    return await site.run(plan, group=CACHE, **request)


async def held(site: Site, region: str) -> tuple[dict[Any, Any], set[int]]:
    """What ``fill`` brought, and the numbers that were written beside the backup."""
    found = await contents(redis_of(site.lab, region))
    load = {int(name.removeprefix(LOAD)) for _, name in found if name.startswith(LOAD)}
    return {key: value for key, value in found.items() if not key[1].startswith(LOAD)}, load


async def test_a_redis_under_load_is_taken_proven_and_put_back(filled: Site) -> None:
    site = filled
    async with writing(redis_of(site.lab, HOME)) as acknowledged:
        report = await run(site, "Backup")
        after = len(acknowledged)
    assert report.state is RunState.COMPLETED, report.error
    (point_id,) = report.point_ids
    validation = await site.ended(await operations.find(site.client, f"validate/{CACHE}/{point_id}"))
    assert validation.state is RunState.COMPLETED, validation.error
    point = await (await site.catalogue(CACHE)).point(CACHE, point_id)
    assert point.is_valid and sorted(point.locations) == ["store-region-a", "store-region-b"]
    assert point.verdict is not None
    proven = {check.name: check.detail for check in point.verdict.checks}
    assert "loaded it in" in proven["load"] and "keys read" in proven["checksum"]
    expected, _ = await held(site, HOME)

    report = await run(site, "Restore", store="redis", region=AWAY)
    assert report.state is RunState.COMPLETED, report.error
    assert report.point_ids == [point_id]
    restored, load = await held(site, AWAY)
    assert restored == expected
    assert load == set(range(len(load))) and 0 < len(load) <= after + 1, "all writes up to one, and none after it"
    assert await ask(site, AWAY, "EXISTS", MARK_KEY) == 0

    await ask(site, AWAY, "SET", "late", "written after the restore")
    refused = await run(site, "Restore", store="redis", region=AWAY)
    assert refused.state is RunState.ROLLED_BACK
    assert "holds data already" in str(refused.error) and "Say --replace" in str(refused.error)
    assert await ask(site, AWAY, "GET", "late") == "written after the restore"
    replaced = await run(site, "Restore", store="redis", region=AWAY, way="keys", replace=True)
    assert replaced.state is RunState.COMPLETED, replaced.error
    assert await held(site, AWAY) == (expected, load)

    # A restore that fails for good takes back what it made.
    await ask(site, AWAY, "FLUSHALL")
    site.arm("RedisRestores.verify", step="verify-data", action="fail", error="RestoreFailed", words="no more")
    failed = await run(site, "Restore", point_id=point_id, region=AWAY)
    assert failed.state is RunState.ROLLED_BACK and "no more" in str(failed.error)
    assert await ask(site, AWAY, "INFO", "keyspace") == "# Keyspace\r\n"

    # A byte that flipped at both locations is never VALID.
    (entry,) = point.manifest.artefact("dump.rdb").objects
    for region in REGIONS:
        await site.lab.corrupt(region, "s3-object", key=f"points/{entry.key}", offset=entry.size // 2)
    damaged = await run(site, "BackupValidation", point_id=point_id)
    assert damaged.state is RunState.ROLLED_BACK and f"{point_id} is CORRUPT" in str(damaged.error)
    verdict = (await (await site.catalogue(CACHE)).point(CACHE, point_id)).verdict
    assert verdict is not None and verdict.state is VerdictState.CORRUPT
    await (await site.catalogue(CACHE)).delete_point(CACHE, point_id)
    await site.no_residue()

"""A chain of base backups of PostgreSQL 18 under load: taken, proven, damaged, kept and put back as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from recovery.adapters.key_ring import KeyRing
from recovery.adapters.logins import Logins
from recovery.adapters.postgres_chains import PostgresChains
from recovery.adapters.postgres_points import PostgresPoints
from recovery.adapters.recovery_points import StoredRecoveryPoints
from recovery.backup.catalogue import Catalogue
from recovery.backup.chains import open_chain
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.upload import WriteBudget
from recovery.domain.group import BaseBackupRule, GroupSnapshot, Objectives, PostgresAt, RegionPlan, RetentionRule
from recovery.domain.recovery_point import BackupKind, DataStore, Manifest, VerdictState
from recovery.errors import Corrupt
from recovery.ports.object_store import ObjectStore
from recovery.ports.postgres import PostgresLogin, PostgresPlace, RestoreOptions
from recovery.ports.recovery_points import BackupOrder
from tests.fakes.object_store import MemoryStore
from tests.fakes.ownership import FakeOwnershipStore
from tests.fakes.points import AGE, signer, verifier
from tests.integration.postgres_servers import Server, Writer, public_folder, running_source
from tests.ports import free_port


@dataclass
class OneLogin:
    login: PostgresLogin

    async def backup(self, group: str, region: str) -> PostgresLogin:
        return self.login

    admin = backup


GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="low", rto=timedelta(hours=1), rpo=timedelta(hours=1)),
    home_region="here",
    regions=[RegionPlan(name="here", task_queue="here", postgres=PostgresAt(host="127.0.0.1"))],
    locations=["a"],
    retention=RetentionRule(count=1),
    base_backup=BaseBackupRule(incrementals=3),
)


def nothing(*state: object) -> None: ...


def points_of(source: Server, store: ObjectStore, sealer: Sealer, opener: Opener, folder: Path) -> StoredRecoveryPoints:
    keys = KeyRing(sealer, verifier(), signer(), opener)

    def catalogue(group: GroupSnapshot) -> Catalogue:
        return Catalogue([store], verifier())

    part = PostgresPoints(
        lambda group, region: source.postgres,
        cast(Logins, OneLogin(source.login)),
        lambda group: "fast",
        chains=PostgresChains(catalogue),
    )
    return StoredRecoveryPoints(
        stores=lambda group: [store],
        keys=keys,
        parts={DataStore.POSTGRES: part},
        ownership=FakeOwnershipStore(),
        scratch_folder=lambda group: folder / "scratch",
        budget=lambda group: WriteBudget(),
    )


async def taken(points: StoredRecoveryPoints, number: int) -> Manifest:
    now = datetime.now(UTC)
    order = BackupOrder(GROUP, "here", BackupKind.PHYSICAL, f"{now:%Y%m%dT%H%M%SZ}-physical-{number}", "run", 1, now)
    return (await points.take(order, nothing)).manifest


async def test_a_chain_is_whole_or_nothing() -> None:
    async with Sealer([AGE.public]) as sealer, Opener([AGE.secret]) as opener:
        with public_folder() as folder:
            async with running_source(folder, major=18) as source:
                await source.execute("ALTER SYSTEM SET summarize_wal = on")
                await source.execute("SELECT pg_reload_conf()")
                store = MemoryStore("a")
                points = points_of(source, store, sealer, opener, folder)
                async with Writer(source) as writer:
                    chain = [await taken(points, number) for number in range(3)]
                    written = len(writer.acknowledged)
                assert written
                await _is_a_chain(chain)
                verdict = await points.validate(GROUP, chain[2].point_id, "validation", nothing)
                assert verdict.state is VerdictState.VALID, verdict.reason
                await _comes_back(source, points, opener, chain[2], writer)

                kept = await points.expire(GROUP, datetime.now(UTC), dry_run=True)
                assert (kept.removed, set(kept.kept)) == ({}, {manifest.point_id for manifest in chain})

                key = chain[1].artefact("base.tar").objects[0].key
                body = store.objects[key]
                store.objects[key] = body[:-9] + bytes([body[-9] ^ 1]) + body[-8:]
                for manifest in chain[1:]:
                    verdict = await points.validate(GROUP, manifest.point_id, "again", nothing)
                    assert (verdict.state, key in verdict.reason) == (VerdictState.CORRUPT, True)
                with pytest.raises(Corrupt, match="SHA-256"):
                    await _comes_back(source, points, opener, chain[2], writer)
                assert not (folder / "restored").exists()
                fourth = await taken(points, 3)
                assert fourth.postgres.bases == []
                assert any(f"{chain[1].point_id} is CORRUPT" in note for note in fourth.postgres.notes)


async def _is_a_chain(chain: list[Manifest]) -> None:
    ids = [manifest.point_id for manifest in chain]
    notes = [manifest.postgres.notes for manifest in chain]
    assert [manifest.postgres.bases for manifest in chain] == [[], ids[:1], ids[:2]], notes
    assert max(manifest.plain_bytes for manifest in chain[1:]) < chain[0].plain_bytes, "only what changed, and WAL"


async def _comes_back(
    source: Server, points: StoredRecoveryPoints, opener: Opener, last: Manifest, writer: Writer
) -> None:
    """What the point holds, no more and no less than commits up to its end, and all that never changed."""
    catalogue = points.catalogue(GROUP)
    place = PostgresPlace("127.0.0.1", free_port(), source.folder / "restored")
    reader = await open_chain(catalogue, await catalogue.point("shop", last.point_id), opener)
    await source.postgres.restore_physical(reader, place, RestoreOptions("restore-1", durable=False))
    try:
        restored = Server(source.postgres, place, source.folder)
        assert sorted(path.name for path in place.data_directory.glob("recovery-plans.chain*")) == []
        untouched = "SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM customers c"
        assert await restored.value(untouched) == await source.value(untouched)
        committed = {number for number, at in writer.acknowledged.items() if at <= _surely(last)}
        here = set(await restored.value("SELECT array_agg(id) FROM events"))
        assert committed <= here
        assert here <= set(await source.value("SELECT array_agg(id) FROM events"))
        assert len(here) > 5
    finally:
        await source.postgres.remove_restored(place, "restore-1")


def _surely(manifest: Manifest) -> datetime:
    found = manifest.postgres.last_commit_at
    assert found is not None
    return found

"""A base backup that a standby streams, chosen by what it replays, and ended by its promotion."""

from __future__ import annotations

import pytest

from recovery.adapters.postgres.standby_source import choose_standby
from recovery.errors import RecoveryError, SourceFailed
from recovery.ports.postgres import BaseBackupOptions
from tests.integration.postgres_pair import cluster, replayed
from tests.integration.postgres_servers import eventually, public_folder, take


async def test_a_standby_streams_while_it_is_one_and_close() -> None:
    with public_folder() as folder:
        async with cluster(folder, "first", "second") as (primary, standby):
            await primary.execute("INSERT INTO marks SELECT i, repeat('x', 500) FROM generate_series(1, 40000) i")
            await replayed(standby, primary)
            candidates = {"own": primary.login, "second": standby.login}
            chosen = await choose_standby(primary.login, candidates, 5)
            assert (chosen.name, chosen.login) == ("second", standby.login)
            assert chosen.passed_over["own"].endswith("is no standby")

            await standby.execute("SELECT pg_wal_replay_pause()")
            await eventually(lambda: standby.value("SELECT pg_get_wal_replay_pause_state() = 'paused'"))
            await primary.execute("INSERT INTO marks VALUES (0, 'not replayed')")
            behind = await choose_standby(primary.login, candidates, 0.2)
            assert behind.login is None
            assert "did not replay" in behind.passed_over["second"]
            await standby.execute("SELECT pg_wal_replay_resume()")

            options = BaseBackupOptions(standby=standby.login)
            point = await take(primary.postgres.physical_source(primary.login, "point", options))
            found = point.manifest.postgres
            assert (found.streamed_from, found.timeline) == (standby.login.address, 2)  # its guard promoted it
            assert found.canary is not None
            assert "postgres.public.marks" in {entry.table for entry in found.tables}

            with pytest.raises(SourceFailed, match="promoted"):
                async with primary.postgres.physical_source(primary.login, "broken", options) as backup:
                    promoted = False
                    async for artefact in backup.artefacts():
                        async for _ in artefact.chunks():
                            if not promoted:
                                promoted = await standby.value("SELECT pg_promote()")
            after = await choose_standby(primary.login, {"second": standby.login}, 0.2)
            assert "is no standby" in after.passed_over["second"]
            with pytest.raises(RecoveryError, match="none any more"):
                await take(primary.postgres.physical_source(primary.login, "late", options))

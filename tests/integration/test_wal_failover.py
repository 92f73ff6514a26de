"""The WAL archive of a guarded group whose region is lost: it goes on at the new primary, without a gap."""

from __future__ import annotations

import time
from typing import Any

import pytest

from drctl.demo.installation import GROUP
from recovery.domain.report import RunState
from recovery.domain.wal_progress import WalProgress
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_start import guarded_site
from tests.ports import free_port
from workers.wal import keep_archiving
from workers.wal_status import archive_status, archiver_status

TAKEOVER_SECONDS = 15


def with_wal(group: dict[str, Any]) -> None:
    group.setdefault("backup", {})["wal"] = {"enabled": True, "flush_interval": "1s"}


async def progress_at(site: GuardedSite, region: str, timeline: int) -> WalProgress | None:
    found = (await archiver_status(site.client, GROUP)).progress
    told = found is not None and found.region == region and found.timeline == timeline
    return found if told and found is not None and found.pieces else None


@pytest.mark.chaos
async def test_after_a_failover_the_archive_goes_on_at_the_new_primary() -> None:
    async with guarded_site(amend=with_wal) as site:
        await keep_archiving(site.client, site.config, site.installation.regions)  # the reset ended what ran
        source, target = site.active, site.other

        async def followed() -> bool:
            found = await progress_at(site, source, 1)
            return found is not None and "/" in found.standbys.get(target, "")

        async def validated() -> bool:
            points = await (await site.wiring.catalogue(site.config.snapshot(GROUP))).points(GROUP)
            return any(point.is_valid for point in points)

        await site.eventually(followed, 40, "the standby's slot does not follow the archive")
        await site.eventually(validated, 60, "the base backup that the archive asked for was not validated")
        killed = await site.kill(source)
        back = await site.service_back(killed)
        found = await site.eventually(lambda: progress_at(site, target, 2), 60, "the archive does not go on")
        took = time.time() - killed
        print(f"service back after {back - killed:.1f} s, its WAL archived after {took:.1f} s")
        assert took < max(back - killed, 0) + TAKEOVER_SECONDS
        assert found.gap is None and found.epoch == (await site.record()).epoch
        await site.failover()

        status = await archive_status(site.wiring, GROUP)
        for location in status.locations:
            (server,) = location.servers
            assert [(each.timeline, each.gaps) for each in server.timelines] == [(1, []), (2, [])]
        assert {window.timeline for window in status.windows} == {2}
        folder = site.lab.postgres(target).data_directory.with_name(f"copy-{free_port()}")
        report = await site.run(
            "Restore", region=target, target={"latest": True}, target_directory=str(folder), target_port=free_port()
        )
        assert report.state is RunState.COMPLETED, report.error
        (restore,) = [step for step in report.steps if step.name == "restore-database"]
        assert "recovered to timeline 2" in restore.summary and restore.summary.endswith("goes on with timeline 3")

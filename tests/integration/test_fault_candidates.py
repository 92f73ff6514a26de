"""Which standby may take over, on real servers: one too far behind, one of another history, none at all.

The site begins with its home region active: only the other region's worker opens recovery points.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time

import asyncpg

from lab.postgres import STANDBY_SIGNAL
from lab.state import GUARD
from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.local_server import LocalServer
from recovery.domain.guarding import StoreRole
from recovery.domain.recovery_point import BackupKind
from recovery.domain.report import RunReport, RunState
from recovery.domain.timelines import History
from recovery.ports.postgres import PostgresLogin, PostgresPlace
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_verdicts import PROBE, assert_honest, survived
from workers import operations
from workflows.control import OperatorCommand

ANA = OperatorCommand(actor="ana", reason="the customers wait")


async def test_without_any_standby_the_newest_validated_point_is_taken(guarded: GuardedSite) -> None:
    """The other region's standby is lost with its disk, and then the owner: a region is recovered under guard."""
    source, target = guarded.active, guarded.other
    point = await _validated_point(guarded)
    await guarded.kill(target, "postgres", with_disks=True)
    killed = await guarded.kill(source)
    report = await guarded.ended(await _begun(guarded, "FullRecovery"))
    assert report.state is RunState.COMPLETED, f"{report.error}\n{guarded.logs()}"
    assert (report.target_region, report.point_ids) == (target, [point])
    assert report.fence is not None, "the old primary's guard never held it up, and still nothing began without proof"
    await guarded.became_active(target)
    await guarded.service_back(killed, 60)
    assert await guarded.role(source) != "primary"
    guarded.never_two_writers()
    await assert_honest(guarded, report, killed)
    await _all_primary(guarded, target)


async def test_a_replica_that_is_too_far_behind_is_held_with_its_cost(guarded: GuardedSite) -> None:
    source, target = guarded.active, guarded.other
    await guarded.lab.partition(source, target)
    parted = time.time()
    await guarded.no_plan(guarded.times.lag_limit + 3)
    killed = await guarded.kill(source)
    handle = await _begun(guarded, "Failover")

    async def held() -> RunReport | None:
        found = await operations.report(handle)
        return found if found.state is RunState.HELD else None

    report: RunReport = await guarded.eventually(held, 40, "the failover was not held")
    (choice,) = report.hold_choices
    assert f"{target} would cost about" in choice and "accept-loss" in choice
    await asyncio.sleep(2 * guarded.times.ttl)
    assert await guarded.role(target) != "primary", "nobody accepted the loss yet"
    assert (await guarded.record()).region == source
    await handle.execute_update("accept-loss", ANA)
    await guarded.service_back(killed, 60)
    report = await guarded.ended(handle)
    assert report.accepted_data_loss
    await survived(guarded, report, killed)
    assert report.achieved.rpo is not None
    assert report.achieved.rpo.total_seconds() >= killed - parted - PROBE


async def test_a_replica_of_another_history_with_an_equal_timeline_number_is_refused(guarded: GuardedSite) -> None:
    """Both sides were promoted by themselves since they were one. The standby runs, and is no descendant."""
    source, target = guarded.active, guarded.other
    await guarded.lab.partition(source, target)  # so that it does not follow again, and become a mixture of both
    await guarded.kill(target, GUARD)
    await _promote_past_its_guard(guarded, target)
    died = await guarded.kill(source, "postgres")
    await guarded.service_back(died)
    await guarded.became_active(source)
    await guarded.lab.restart(target, GUARD)
    ours, theirs = await _history(guarded, source), await _history(guarded, target)
    assert ours.timeline == theirs.timeline and str(ours) != str(theirs)

    async def noted() -> bool:
        lineage = (await guarded.record()).lineage
        return lineage is not None and History.parse(lineage).timeline == ours.timeline

    await guarded.eventually(noted, 20, "the record does not say whose data the owner has")
    guarded.since = time.time()
    await guarded.kill(source)
    report = await guarded.ended(await _begun(guarded, "Failover"))
    assert (report.state, report.failed_step) == (RunState.ROLLED_BACK, "choose-target"), report
    assert "their common history ends at" in report.error, report.error
    assert await guarded.role(target) == "standby"
    assert (await guarded.record()).region == source
    guarded.never_two_writers()
    await guarded.lab.heal()
    await guarded.lab.restart(source)
    await guarded.became_active(source, 60)
    await guarded.service_back(time.time())
    assert await guarded.lost_since(guarded.since) == []


# -- parts of the above -----------------------------------------------------------------------------------------------


async def _begun(guarded: GuardedSite, plan: str) -> operations.Handle:
    """Waits until the monitors start this plan."""

    async def begun() -> operations.Handle | None:
        view = await guarded.health()
        run = view.run if view is not None else None
        if run is None or run.plan != plan or run.started_at.timestamp() < guarded.since:
            return None
        return await operations.find(guarded.client, run.run_id)

    found: operations.Handle = await guarded.eventually(begun, 60, f"no {plan} began")
    return found


async def _validated_point(guarded: GuardedSite) -> str:
    report = await guarded.run("Backup", kind=BackupKind.PHYSICAL)
    assert report.state is RunState.COMPLETED, report.error
    (point,) = report.point_ids

    async def validated() -> RunReport:
        return await guarded.ended(await operations.find(guarded.client, f"validate/shop/{point}"))

    assert (await validated()).state is RunState.COMPLETED
    return point


async def _all_primary(guarded: GuardedSite, region: str) -> None:
    async def so() -> bool:
        return sorted(await guarded.primaries(region)) == ["nats", "postgres", "redis"]

    await guarded.eventually(so, 30, f"not all stores of {region} are primary")


async def _history(guarded: GuardedSite, region: str) -> History:
    async def told() -> str | None:
        status = await guarded.status(region)
        states = [store for group in status.groups for store in group.stores] if status else []
        return next((x.history for x in states if x.store == "postgres" and x.role is not StoreRole.UNREACHABLE), None)

    return History.parse(await guarded.eventually(told, 30, f"{region} does not tell its history"))


async def _promote_past_its_guard(guarded: GuardedSite, region: str) -> None:
    """As an operator might by mistake: promoted, written to, and made a standby again. No client is let in."""
    place = guarded.lab.postgres(region)
    folder = place.data_directory
    access = folder / "pg_hba.conf"
    rules = access.read_text()
    access.write_text(f"host all {place.app_user} all reject\n{rules}")
    connection = await asyncpg.connect(place.dsn(), timeout=5)
    try:
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{place.app_user}'"
        )
        await connection.execute("SELECT pg_promote()")
        await connection.execute("CREATE TABLE alone AS SELECT 1")
    finally:
        connection.terminate()
    access.write_text(rules)
    owner = access.stat()
    server = LocalServer(
        PostgresPlace(place.host, place.port, folder, place.run_as),
        PostgresLogin(place.host, place.port, place.superuser, place.database, place.password),
        binaries=PostgresBinaries({place.version: place.bin_directory}),
    )
    postmaster = int((folder / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGINT)

    async def ended() -> bool:
        return not await server.runs()

    await guarded.eventually(ended, 20, "PostgreSQL did not end")
    (folder / STANDBY_SIGNAL).touch(mode=0o600)
    if os.geteuid() == 0:
        shutil.chown(folder / STANDBY_SIGNAL, owner.st_uid, owner.st_gid)
    await server.launch(30)

"""FullRecovery on real servers: the region is lost, a step fails before the pivot, a step fails after it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from drctl.demo.installation import GROUP
from lab.workload import Workload, longest_gap, lost_commits, read_acknowledged
from recovery.domain.ownership import Phase
from recovery.domain.recovery_point import BackupKind
from recovery.domain.report import RunReport, RunState, StepState
from recovery.errors import Refused
from tests.integration.contents import contents, torn_transactions
from tests.integration.installation import AWAY, HOME, Site, eventually, execute, value_of
from workers import operations

STEPS = [
    "load-configuration", "claim-group", "choose-target", "choose-recovery-point", "announce-start",
    "verify-infrastructure", "restore-database", "verify-data", "take-ownership", "verify-services",
    "remember-records", "switch-dns", "open-writes", "confirm-service", "measure", "notify-stakeholders",
    "release-group",
]  # fmt: skip
NOT_ASKED = [
    "check-stores", "restore-streams", "restore-redis", "restore-search", "verify-stores", "fence-primary",
    "open-stores",
]  # fmt: skip


def states(report: RunReport) -> dict[str, StepState]:
    return {step.name: step.state for step in report.steps}


async def test_a_lost_region_is_recovered_in_the_other_one(site: Site) -> None:
    """With its disks and its store; clients go on through the name, and exactly what was said to be lost is lost."""
    home, away = site.lab.postgres(HOME), site.lab.postgres(AWAY)
    try:
        async with Workload(site.lab, transactions_per_second=100, file=site.folder / "lost.log") as workload:
            await workload.wait_for(100)
            point_id = await site.backup(BackupKind.PHYSICAL)
            await workload.wait_for(workload.acknowledged() + 50)
            await site.lab.kill(HOME, with_disks=True)
            outage = datetime.now(UTC)
            before = workload.acknowledged()
            report = await site.run("FullRecovery", outage_began_at=outage)
            await workload.wait_for(before + 20, timeout=20)  # clients write again, through the name
        assert report.state is RunState.COMPLETED, report.error
        # Nothing is fenced in a group without guards, and there are no further stores.
        assert states(report) == dict.fromkeys(STEPS, StepState.DONE) | dict.fromkeys(NOT_ASKED, StepState.SKIPPED)
        assert report.recovered_set is None
        assert (report.source_region, report.target_region, report.point_ids) == (HOME, AWAY, [point_id])
        assert await site.address() == away.host
        record = await site.ownership()
        assert record is not None
        assert (record.region, record.epoch, record.run, record.phase) == (AWAY, 2, None, Phase.STEADY)

        dsn = home.dsn(host=away.host)
        assert await torn_transactions(dsn) == 0
        losses = await lost_commits(workload.file, dsn)
        assert losses.lost >= 50
        assert report.achieved.rpo is not None
        assert report.achieved.rto is not None
        recovered_until = (outage - report.achieved.rpo).timestamp()
        times = read_acknowledged(workload.file)
        after = {number for number, at in times.items() if recovered_until < at < outage.timestamp()}
        # Each of the two connections may have had one commit that was stored and not acknowledged at that moment.
        assert len(after) - 2 <= losses.lost <= len(after)
        assert set(losses.lost_ids) <= after
        gap_began, gap_ended = longest_gap(workload.file)
        assert abs(gap_ended - gap_began - report.achieved.rto.total_seconds()) < 4, "the RTO is what clients saw"
        assert report.achieved.rto_met
        assert report.achieved.rpo_met
    finally:
        await site.rebuild_home()


async def test_a_failure_before_the_pivot_is_undone_in_reverse_order(site: Site) -> None:
    """The application in the target does not answer: all is as it was, and the group is free for the next run."""
    await site.point(BackupKind.PHYSICAL)
    source_before = await contents(site.lab.postgres(HOME).dsn())
    address = await site.address()
    await site.lab.kill(AWAY, "app")
    try:
        report = await site.run("FullRecovery")
        assert report.state is RunState.ROLLED_BACK, report
        assert report.failed_step == "verify-services"
        assert "/healthz" in report.error
        assert report.undo_order == ["take-ownership", "restore-database", "claim-group"]
        found = states(report)
        assert [found[name] for name in report.undo_order] == [StepState.UNDONE] * 3
        assert found["switch-dns"] is StepState.PENDING
        site.target_is_empty()
        assert await site.address() == address
        record = await site.ownership()
        assert record is not None
        assert (record.region, record.epoch, record.run, record.pivot) == (HOME, 3, None, None)
        assert record.phase is Phase.STEADY
        assert await contents(site.lab.postgres(HOME).dsn()) == source_before
    finally:
        await site.lab.restart(AWAY, "app")
    again = await site.run("FullRecovery")
    assert again.state is RunState.COMPLETED, again.error
    record = await site.ownership()
    assert record is not None
    assert (record.region, record.epoch) == (AWAY, 4)


async def test_dns_that_fails_before_the_pivot_is_undone_too(site: Site) -> None:
    """open-writes cannot even be recorded as begun: the record goes back to the old address."""
    await site.point(BackupKind.PHYSICAL)
    address = await site.address()
    site.arm("ConfiguredZones.replace", "after", step="switch-dns", action="fail", error="Refused", words="no more")
    report = await site.run("FullRecovery")
    assert report.state is RunState.ROLLED_BACK, report
    assert (report.failed_step, report.error) == ("switch-dns", "no more")
    assert report.undo_order == ["switch-dns", "take-ownership", "restore-database", "claim-group"]
    assert {step.undo_error for step in report.steps} == {""}
    assert await site.address() == address
    site.target_is_empty()


async def test_a_failure_after_the_pivot_is_held_and_retried(site: Site) -> None:
    await site.point(BackupKind.PHYSICAL)
    away = site.lab.postgres(AWAY)
    site.arm("PostgresRestores.write_probe", action="fail", error="Refused", words="no commit for you")
    handle = await site.start("FullRecovery")

    async def held() -> RunReport | None:
        report = await operations.report(handle)
        return report if report.state is RunState.HELD else None

    report = await eventually(held, 60)
    assert report is not None
    assert states(report)["confirm-service"] is StepState.HELD
    assert report.undo_order == []
    assert "no commit for you" in report.hold_choices[0]
    assert "retry, skip, abort" in report.hold_choices[0]
    record = await site.ownership()
    assert record is not None
    assert record.phase is Phase.PIVOTED
    assert record.pivot is not None
    assert record.pivot.step == "open-writes"
    assert await site.address() == away.host
    dsn = site.lab.postgres(HOME).dsn(host=away.host)
    assert await value_of(dsn, "SHOW default_transaction_read_only") == "off"
    with pytest.raises(Refused, match=r"is past its point of no return\. Finish it"):
        await other_plan(site)

    await operations.act(handle, "retry", "ana", "looked at it")
    final = await site.ended(handle)
    assert final.state is RunState.COMPLETED, final.error
    assert [(action.action, action.actor) for action in final.actions] == [("retry", "ana")]
    assert final.undo_order == []
    probes = await value_of(dsn, "SELECT count(*) FROM recovery_plans.probe")
    assert probes == 1


async def other_plan(site: Site) -> None:
    """A second recovery of the group under any other id, as the Temporal UI lets one start it."""
    handle = await site.client.start_workflow(
        "FullRecovery", {"group": GROUP}, id="by-hand", task_queue=site.config.temporal.control_queue
    )
    report = await operations.result(await operations.find(site.client, handle.id))
    raise Refused(report.error)


async def test_an_abort_after_the_pivot_undoes_nothing_and_frees_the_group(site: Site) -> None:
    await site.point(BackupKind.PHYSICAL)
    site.arm("PostgresRestores.write_probe", action="fail", error="Refused", words="no")
    handle = await site.start("FullRecovery")

    async def held() -> bool:
        return (await operations.report(handle)).state is RunState.HELD

    await eventually(held, 60)
    await operations.act(handle, "abort", "ana", "I go on by hand")
    report = await site.ended(handle)
    assert report.state is RunState.STOPPED
    assert report.undo_order == []
    record = await site.ownership()
    assert record is not None
    assert (record.region, record.run) == (AWAY, None)
    assert await site.address() == site.lab.postgres(AWAY).host


async def test_a_recovery_that_is_cancelled_in_mid_restore_stops_within_a_second(site: Site) -> None:
    await site.point(BackupKind.PHYSICAL)
    site.arm("S3Store.get", step="restore-database", number=3, action="hold")
    handle = await site.start("FullRecovery")
    await site.held()
    await site.cancel_arrives(handle)
    report = await operations.result(handle)
    assert report.state is RunState.ROLLED_BACK
    assert report.undo_order == ["restore-database", "claim-group"]
    site.target_is_empty()
    site.release()
    await site.no_residue()


async def test_a_recovered_region_is_backed_up_and_recovered_again(site: Site) -> None:
    """There and back: the copy of a copy carries the traces of its first restore, which must not pass for its own.

    The worker is killed when everything is unpacked, so that another one must know whose the folder is.
    """
    home, away = site.lab.postgres(HOME), site.lab.postgres(AWAY)
    dsn = home.dsn(host=away.host)
    try:
        await site.point(BackupKind.PHYSICAL)
        assert (await site.run("FullRecovery")).state is RunState.COMPLETED
        await site.lab.kill(HOME, "postgres", with_disks=True)
        await execute(dsn, "CREATE TABLE second_life (id int); INSERT INTO second_life VALUES (1), (2), (3)")
        point_id = await site.backup(BackupKind.PHYSICAL)
        wanted = await contents(dsn)
        taken_at = datetime.now(UTC)
        await asyncio.sleep(2)  # the recovery point gets older than any trace of the first restore could tell
        await site.lab.kill(AWAY, "postgres", with_disks=True)
        site.arm("PhysicalRestore.unpack", "after", step="restore-database")
        handle = await site.start("FullRecovery")
        assert await site.fallen() == []
        site.crew.hire()
        report = await site.ended(handle)
        assert report.state is RunState.COMPLETED, report.error
        assert (report.source_region, report.target_region, report.point_ids) == (AWAY, HOME, [point_id])
        assert await contents(home.dsn()) == wanted
        record = await site.ownership()
        assert record is not None
        assert (record.region, record.epoch) == (HOME, 3)
        assert await site.address() == home.host
        assert report.achieved.rpo is not None
        written = report.started_at - report.achieved.rpo
        assert taken_at - timedelta(seconds=30) < written <= report.started_at, "not the first restore's last commit"
        await (await site.catalogue()).delete_point(GROUP, point_id)
    finally:
        await site.rebuild_home()

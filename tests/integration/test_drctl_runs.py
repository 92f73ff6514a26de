"""``drctl`` on real runs: start, follow, attach, answer, report, and what it says where something is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from activities.boundary import StepProgress
from recovery.domain.ownership import Phase
from recovery.domain.recovery_point import VerdictState
from recovery.errors import Refused
from tests.integration.drctl_rig import POINT, Rig, temporal_server
from workers import operations


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[Client]:
    async with temporal_server() as client:
        yield client


@pytest.fixture
async def rig(temporal: Client, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(temporal, tmp_path)
    async with rig.worker():
        yield rig
        await end_all(rig)
        await rig.end_processes()


@pytest.fixture
async def gated(temporal: Client, tmp_path: Path) -> AsyncIterator[Rig]:
    """A group whose recoveries need an approval."""
    rig = Rig(temporal, tmp_path, approval=True)
    async with rig.worker():
        yield rig
        await end_all(rig)
        await rig.end_processes()


async def end_all(rig: Rig) -> None:
    """The group's id is the same in every test."""
    for event in rig.world.block.values():
        event.set()
    async for run in rig.client.list_workflows("ExecutionStatus = 'Running'"):
        await rig.client.get_workflow_handle(run.id).terminate()


async def blocked(rig: Rig, step: str) -> asyncio.Event:
    rig.world.block[step] = asyncio.Event()
    return rig.world.block[step]


async def test_a_backup_is_followed_line_by_line_and_says_where_to_look_next(rig: Rig) -> None:
    ended = await rig.drctl("backup", "run")
    assert ended.code == 0, ended
    lines = ended.out.splitlines()
    assert lines[0] == "Backup of shop started: backup/shop"
    assert any(line.endswith("✓ check-source: done after 0 s: did check-source") or "✓ check-source: done" in line
               for line in lines)  # fmt: skip
    assert len([line for line in lines if "take-physical-backup: done" in line]) == 1, "one line for each change"
    assert "\x1b" not in ended.out, "no control codes without a terminal"
    assert "Completed: Backup of shop" in ended.out
    report = await operations.latest(await operations.find(rig.client, "backup/shop"))
    for point_id in report.point_ids:
        assert f"drctl backup show {point_id} --group shop" in ended.out
    assert f"drctl report {report.run_id} --format html" in ended.out


async def test_a_backup_as_json_is_one_document(rig: Rig) -> None:
    ended = await rig.drctl("backup", "run", "--kind", "logical", "-o", "json")
    assert (ended.code, ended.err) == (0, "")
    found = ended.json
    assert (found["workflow_id"], found["state"], found["exit"]) == ("backup/shop/logical", "completed", 0)
    assert [point.split("-")[1] for point in found["report"]["point_ids"]] == ["logical"]
    assert found["report"]["requested_by"] == "ana"


async def test_a_backup_waits_for_its_validations_and_their_verdict_counts(rig: Rig) -> None:
    rig.world.verdict = VerdictState.CORRUPT
    rig.world.fail["judge"].append(Refused("1 of 1 recovery points are not VALID"))
    ended = await rig.drctl("backup", "run", "--kind", "physical", "--validate", "-o", "json")
    assert ended.code == 1, ended
    assert ended.json["state"] == "completed"
    [validation] = ended.json["further"]
    assert validation["plan"] == "BackupValidation"
    assert validation["workflow_id"] == f"validate/shop/{ended.json['report']['point_ids'][0]}"


async def test_a_failed_plan_exits_with_1_and_says_why(rig: Rig) -> None:
    rig.world.fail["verify-data"].append(Refused("customers has 3 rows less"))
    ended = await (await rig.start("recover", "--yes", "--reason", "test")).ended()
    assert ended.code == 1
    assert "verify-data: customers has 3 rows less" in ended.out
    assert "Rolled back: FullRecovery of shop" in ended.out
    assert "Undone in this order: restore-database, claim-group." in ended.out
    assert "Traceback" not in ended.out + ended.err


async def test_a_second_start_attaches_to_the_same_and_is_refused_for_another(rig: Rig) -> None:
    release = await blocked(rig, "restore-database")
    first = await rig.drctl("recover", "--to", "region-b", "--yes", "--no-wait", "-o", "json")
    assert (first.code, first.json["attached"], first.json["state"]) == (0, False, "running")
    await rig.world.until("restore-database")
    second = await rig.drctl("recover", "--yes", "--no-wait", "-o", "json")
    assert second.json["attached"] is True
    assert second.json["run_id"] == first.json["run_id"]
    other = await rig.drctl("recover", "--to", "region-a", "--yes", "--no-wait", "-o", "json")
    assert other.code == 2
    assert "runs already with region region-b, and not with region-a" in other.json["error"]
    release.set()
    ended = await rig.drctl("status", "shop", "--watch", "-o", "json")
    assert (ended.code, ended.json["state"]) == (0, "completed")


async def test_ctrl_c_ends_the_following_and_not_the_run(rig: Rig) -> None:
    release = await blocked(rig, "restore-database")
    running = await rig.start("recover", "--yes")
    await running.says("restore-database: running")
    running.interrupt()
    ended = await running.ended()
    assert ended.code == 130
    assert "recovery/shop goes on. Follow it with drctl status recovery/shop --watch, or end it with drctl abort" in (
        ended.err
    )
    assert "Traceback" not in ended.err
    description = await rig.client.get_workflow_handle("recovery/shop").describe()
    assert description.status is WorkflowExecutionStatus.RUNNING
    release.set()


async def test_status_shows_how_far_a_long_step_is(rig: Rig) -> None:
    rig.world.progress = StepProgress(done=50 * 2**20, expected=200 * 2**20, rate=25e6, note="base.tar")
    await blocked(rig, "take-physical-backup")
    await rig.drctl("backup", "run", "--no-wait")
    await rig.world.until("take-physical-backup")
    async with asyncio.timeout(20):
        while "base.tar" not in (seen := await rig.drctl("status", "backup/shop")).out:
            await asyncio.sleep(0.2)
    assert "take-physical-backup: 50 MiB of 200 MiB, 25 %, 25.0 MB/s, 6.3 s left, base.tar" in seen.out
    assert seen.code == 0


async def test_status_lists_runs_and_owners(rig: Rig) -> None:
    before = await rig.drctl("status")
    assert "region-a (home, never claimed)" in before.out
    await rig.drctl("recover", "--yes", "-o", "json")
    after = (await rig.drctl("status", "-o", "json")).json
    assert (after["groups"]["shop"]["region"], after["groups"]["shop"]["epoch"]) == ("region-b", 2)
    line = next(line for line in after["runs"] if line["workflow_id"] == "recovery/shop")
    assert (line["plan"], line["group"], line["status"]) == ("FullRecovery", "shop", "completed")


async def test_a_plan_started_from_the_temporal_ui_is_found_followed_and_answered(rig: Rig) -> None:
    release = await blocked(rig, "restore-database")
    handle = await rig.start_raw("FullRecovery", {"group": "shop"})
    await rig.world.until("restore-database")
    seen = await rig.drctl("status", handle.id)
    assert "FullRecovery of shop" in seen.out
    async with asyncio.timeout(20):
        while not any(line["group"] == "shop" for line in (await rig.drctl("status", "-o", "json")).json["runs"]):
            await asyncio.sleep(0.2)
    paused = await rig.drctl("pause", "shop", "--reason", "lunch", "-o", "json")
    assert (paused.code, paused.json["workflow_id"]) == (0, handle.id)
    resumed = await rig.drctl("resume", handle.id, "--reason", "back")
    assert "resumed" in resumed.out
    release.set()
    ended = await rig.drctl("status", handle.id, "--watch")
    assert ended.code == 0
    assert "Completed: FullRecovery of shop" in ended.out


async def test_a_run_started_with_nonsense_from_the_ui_ends_in_a_sentence(rig: Rig) -> None:
    handle = await rig.start_raw("Backup", {"grup": "shop"})
    ended = await rig.drctl("status", handle.id, "--watch")
    assert ended.code == 1
    assert "unknown fields: grup" in ended.out


@pytest.mark.parametrize(("answer", "code", "state"), [("approve", 0, "completed"), ("decline", 1, "rolled-back")])
async def test_a_gate_is_answered(gated: Rig, answer: str, code: int, state: str) -> None:
    watching = await gated.start("recover", "--yes")
    await watching.says("waits for an approval: drctl approve recovery/shop --reason ...")
    wrong = await gated.drctl("retry", "shop", "--reason", "why not", "-o", "json")
    assert (wrong.code, wrong.json["error"]) == (2, "no step is held for the operator now")
    said = await gated.drctl(answer, "shop", "--reason", "checked by hand", "--actor", "bo")
    assert said.code == 0, said
    ended = await watching.ended()
    assert ended.code == code, ended
    report = (await gated.drctl("report", "recovery/shop", "--format", "json")).json
    assert report["state"] == state
    [action] = report["actions"]
    assert (action["action"], action["actor"], action["reason"]) == (answer, "bo", "checked by hand")


async def test_a_hold_is_shown_with_its_choices_and_skipped(rig: Rig) -> None:
    rig.world.fail["confirm-service"].append(Refused("nobody answers"))
    watching = await rig.start("recover", "--yes")
    await watching.says("Choose retry, skip, abort. Answer with: drctl retry|skip|resume|abort recovery/shop")
    asked = await rig.drctl("abort", "shop", "--reason", "no", "-o", "json")
    assert asked.code == 2
    assert "past its point of no return (open-writes)" in asked.json["error"]
    skipped = await rig.drctl("skip", "shop", "--reason", "confirmed by hand", "--step", "confirm-service")
    assert skipped.code == 0
    ended = await watching.ended()
    assert ended.code == 0, ended
    assert "» confirm-service: skipped" in ended.out


async def test_abort_before_the_pivot_undoes_everything(rig: Rig) -> None:
    await blocked(rig, "restore-database")
    watching = await rig.start("recover", "--yes")
    await watching.says("restore-database: running")
    aborted = await rig.drctl("abort", "shop", "--reason", "wrong group")
    assert (aborted.code, "aborting" in aborted.out) == (0, True)
    ended = await watching.ended()
    assert ended.code == 1
    assert "aborted by ana: wrong group" in ended.out
    assert "restores.remove_restored" in rig.world.log
    again = await rig.drctl("abort", "recovery/shop", "--reason", "again", "-o", "json")
    assert again.code == 2
    assert "has ended" in again.json["error"]


async def test_reports_in_every_form_also_of_a_run_that_temporal_forgot(rig: Rig) -> None:
    started = (await rig.drctl("recover", "--yes", "-o", "json")).json
    page = await rig.drctl("report", "shop", "--output-file", str(rig.folder / "page.html"))
    assert page.out.strip() == str(rig.folder / "page.html")
    html = (rig.folder / "page.html").read_text()
    assert "<html" in html and "restore-database" in html
    text = await rig.drctl("report", started["run_id"])
    assert "restore-database" in text.out
    as_json = await rig.drctl(
        "report", "shop", "-o", "json", "--format", "html", "--output-file", str(rig.folder / "other.html")
    )
    assert as_json.json["file"] == str(rig.folder / "other.html")
    unknown = rig.config_file.read_text().replace(f"control_queue: {rig.queue}", f"control_queue: {rig.queue}-x")
    assert unknown != rig.config_file.read_text()
    elsewhere = rig.folder / "elsewhere.yaml"
    elsewhere.write_text(unknown.replace(rig.client.service_client.config.target_host, "127.0.0.1:1"))
    stored = await rig.drctl("report", started["run_id"], "--format", "json", "--config", str(elsewhere))
    assert (stored.code, stored.json["run_id"]) == (0, started["run_id"])


async def test_a_terminated_run_is_named_and_its_group_can_be_released(rig: Rig) -> None:
    await blocked(rig, "restore-database")
    watching = await rig.start("recover", "--yes")
    await watching.says("restore-database: running")
    held = await rig.drctl("release", "shop", "--reason", "impatient", "--yes", "-o", "json")
    assert held.code == 2
    assert "goes on in Temporal: end it with drctl abort recovery/shop" in held.json["error"]
    await rig.client.get_workflow_handle("recovery/shop").terminate("by hand")
    ended = await watching.ended()
    assert ended.code == 1
    assert "was terminated in Temporal itself at restore-database: nothing was undone" in ended.err
    asked = await rig.drctl("release", "shop", "--reason", "looked at both regions", "-o", "json")
    assert asked.code == 2
    assert "give --yes when this is meant" in asked.json["error"]
    freed = await rig.drctl("release", "shop", "--reason", "looked at both regions", "--yes", "-o", "json")
    assert (freed.code, freed.json["released"]) == (0, True)
    found = await rig.witness.read("shop")
    assert found is not None
    record = found[0]
    assert (record.phase, record.run, record.region) == (Phase.STEADY, None, "region-a")
    assert record.reason == "released by ana: looked at both regions"
    assert (await rig.drctl("release", "shop", "--reason", "again", "--yes", "-o", "json")).json["released"] is False


async def test_no_worker_is_said_and_the_run_waits(temporal: Client, tmp_path: Path) -> None:
    rig = Rig(temporal, tmp_path)
    running = await rig.start("backup", "run")
    await running.says("no worker answers for backup/shop: is one running? drctl worker --region ...")
    async with rig.worker():
        ended = await running.ended()
    assert ended.code == 0, ended


async def test_no_temporal_is_one_sentence_and_exit_3(rig: Rig) -> None:
    rig.write(change=lambda text: text.replace(rig.client.service_client.config.target_host, "127.0.0.1:1"))
    for command in (["status"], ["backup", "run"], ["schedules", "list"], ["pause", "shop", "--reason", "x"]):
        ended = await rig.drctl(*command)
        assert ended.code == 3
        assert ended.err == (
            "error  no Temporal server answers at 127.0.0.1:1 (connection refused): start one with drctl up, or "
            "correct temporal.address in the configuration\n"
        )


async def test_unknown_groups_regions_points_and_runs_are_answered_with_the_known_ones(rig: Rig) -> None:
    await rig.store_point()
    for command, said in (
        (
            ["backup", "run", "--group", "shpo"],
            "no group 'shpo' in the configuration (did you mean 'shop'?); known: shop",
        ),
        (["backup", "run", "--region", "region-c"], "known: region-a, region-b"),
        (["recover", "--yes", "--to", "region-c"], "known: region-a, region-b"),
        (["validate", "20261122T101500Z-physical-00000000"], f"Known, newest first: {POINT}."),
        (["recover", "--yes", "--point", "nothing"], f"Known, newest first: {POINT}."),
        (["backup", "show", "nothing"], f"Known, newest first: {POINT}."),
        (["status", "nothing"], "no run is called 'nothing'"),
    ):
        ended = await rig.drctl(*command, "-o", "json")
        assert (ended.code, ended.json["exit"]) == (2, 2), ended
        assert said in ended.json["error"]


async def test_points_are_listed_shown_and_their_retention_previewed(rig: Rig) -> None:
    await rig.store_point()
    await rig.store_point("20261121T101500Z-logical-1a2b3c4d", state=None)
    listed = await rig.drctl("backup", "list")
    assert POINT in listed.out and "VALID" in listed.out and "not yet validated" in listed.out
    as_json = (await rig.drctl("backup", "list", "-o", "json")).json
    assert {point["point_id"]: point["valid"] for point in as_json["points"]} == {
        POINT: True,
        "20261121T101500Z-logical-1a2b3c4d": False,
    }
    shown = await rig.drctl("backup", "show", POINT)
    assert "VALID at" in shown.out
    for location in ("store-a", "store-b"):  # the rig stores manifests, and no objects
        assert f"At {location}         incomplete: 1 of 1 objects are missing" in shown.out
    preview = (await rig.drctl("retention", "--dry-run", "-o", "json")).json
    assert (preview["dry_run"], preview["remove"], POINT in preview["keep"]) == (True, {}, True)
    checked = await rig.drctl("locations", "check", "-o", "json")
    assert (checked.code, [entry["answers"] for entry in checked.json]) == (0, [True, True])


async def test_validate_restore_and_retention_run_their_plans(rig: Rig) -> None:
    await rig.store_point()
    validated = (await rig.drctl("validate", POINT, "-o", "json")).json
    assert (validated["workflow_id"], validated["state"]) == (f"validate/shop/{POINT}", "completed")
    since = (await rig.drctl("validate", "--since", "7d", "-o", "json")).json
    assert (since["workflow_id"], since["state"]) == ("validate/shop", "completed")
    restored = (await rig.drctl("restore", "--target-database", "copy", "--to-region", "region-b", "-o", "json")).json
    assert (restored["workflow_id"], restored["state"]) == ("restore/shop/logical", "completed")
    expired = (await rig.drctl("retention", "-o", "json")).json
    assert (expired["plan"], expired["state"]) == ("Retention", "completed")

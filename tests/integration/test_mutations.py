"""Every guard, check and verdict is needed: with it switched off, a named test fails.

A row that no longer fits the source fails with the text that was not found: change the row with the guard. Those of
``FURTHER`` run with ``-m chaos``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.integration.mutation import Mutation, row
from tests.integration.mutation_rows import REDIS_ROWS, SEARCH_ROWS, STREAM_ROWS, WATCHING
from tests.integration.mutation_rows_config import CONFIG_ROWS
from tests.integration.mutation_rows_keeping import KEEPING_ROWS
from tests.integration.mutation_rows_managed import CONFIRMATION_ROWS, FOLDER_ROWS, PATRONI_ROWS, RDS_ROWS
from tests.integration.mutation_rows_ownership import GUARD_ROWS, LOCK_ROWS

ROOT = Path(__file__).resolve().parent.parent.parent

CORRUPTION = "tests/unit/points/test_corruption.py"
POINTS = "tests/unit/points/test_points.py"
RESTORES = "tests/unit/points/test_restores.py"
REPAIR = "tests/unit/points/test_repair.py"
STEPS = "tests/unit/points/test_steps.py"
CHECKS = "tests/unit/postgres/test_checks.py"
OWNERSHIP = "tests/unit/activities/test_ownership.py"
PIPELINE = "tests/unit/backup/test_pipeline.py"
DEMANDED = "tests/unit/activities/test_demanded_checks.py"
CHOOSING = "tests/unit/activities/test_choosing_steps.py"
HANDOVER = "tests/unit/activities/test_handover_steps.py"
CONSENTS = "tests/unit/workflows/test_consents.py"
NO_RETURN = "tests/unit/workflows/test_no_return.py"
STREAMS = "tests/unit/points/test_streams.py"
PAUSES = "tests/model/test_pauses.py"
NAMES = "tests/unit/activities/test_dns_steps.py"
WAL = "tests/unit/wal/test_recoveries.py"
WAL_FILES = "tests/unit/wal/test_files.py"
WAL_ARCHIVE = "tests/unit/backup/test_wal_archive.py"
IN_THE_WAY = f"{STREAMS}::test_what_stands_in_the_way_is_said_before_anything_changes"
BROKEN = f"{CHECKS}::test_a_broken_promise_fails_its_own_check"


def check(name: str, expression: str, test: str = BROKEN) -> Mutation:
    """One check of a validation, which then passes whatever it saw."""
    old = f'name="{name}", passed={expression}, detail=detail'
    return row(f"check {name}", "recovery.adapters.postgres.checks", old, old.replace(expression, "True"), test)


MUTATIONS = [
    # What is stored.
    row("sha-256 of objects", "recovery.backup.reader",
        "if await asyncio.to_thread(sha256_hex, body) != entry.sha256:", "if False:",
        f"{CORRUPTION}::test_a_flipped_byte_of_any_object_is_corrupt"),
    row("size of objects", "recovery.backup.reader",
        "if len(body) != entry.size:", "if False:",
        "tests/unit/backup/test_reader.py::test_every_damaged_object_is_found_without_a_key"),
    row("missing objects", "recovery.backup.reader",
        'return f"{entry.key} is missing"', 'return ""',
        f"{CORRUPTION}::test_a_missing_object_is_corrupt_and_named"),
    row("signature", "recovery.backup.signing",
        'public.verify(_signature_bytes(signature["value"]), canonical_json(payload))', "pass",
        f"{CORRUPTION}::test_a_flipped_byte_of_the_manifest_is_corrupt"),
    row("canonical form of documents", "recovery.backup.signing",
        "if canonical != body:", "if False:",
        "tests/unit/backup/test_documents.py::test_no_missing_doubled_or_added_byte_is_accepted"),
    row("a manifest's own place", "recovery.backup.layout",
        "if (manifest.group, manifest.point_id) != (group, point_id):", "if False:",
        "tests/unit/backup/test_documents.py::test_a_manifest_speaks_only_for_its_own_place"),
    row("a verdict's own manifest", "recovery.backup.catalogue",
        "if verdict.manifest_sha256 != signed.digest:", "if False:",
        f"{CORRUPTION}::test_an_old_verdict_says_nothing_about_another_manifest"),
    row("only VALID points are chosen", "recovery.backup.catalogue",
        "            if is_recoverable(point, known):", "            if True:",
        f"{CORRUPTION}::test_a_corrupt_point_gives_way_to_the_older_valid_one"),
    row("manifests that are not believed", "recovery.adapters.point_judge",
        "if bad_manifests:", "if False:",
        f"{CORRUPTION}::test_a_flipped_byte_of_the_manifest_is_corrupt[one location]"),
    row("unbelieved points in the daily validation", "activities.validations",
        "chosen += [point_id for point_id in unbelieved if _is_younger(point_id, since)]", "pass",
        f"{STEPS}::test_a_daily_validation_takes_unbelieved_points_too"),
    # Writing.
    row("the manifest is written only where there is none", "recovery.backup.upload",
        "self.store.put(key, body, if_absent=True, sha256=sha256)", "self.store.put(key, body, sha256=sha256)",
        f"{PIPELINE}::test_of_two_racing_attempts_exactly_one_wins_and_the_loser_cleans_up"),
    row("an equal object is an earlier try of ours", "recovery.backup.upload",
        "            if await self._is_ours(key, body, error):\n                self.uploaded_bytes += len(body)\n",
        "            raise\n",
        "tests/unit/backup/test_rights.py::test_an_answer_that_was_lost_is_found_out_by_reading"),
    row("what is never changed is written once", "recovery.backup.once",
        "await store.put(key, body, if_absent=True, sha256=sha256)", "await store.put(key, body, sha256=sha256)",
        "tests/unit/backup/test_rights.py::test_nothing_is_written_over_another_object"),
    row("a lock that holds nothing is found out", "recovery.adapters.s3_bucket",
        "if not self._keeps(client, self.settings.lock):", "if False:",
        "tests/contract/test_object_store.py::test_a_server_that_only_says_that_it_locks_is_found_out"),
    row("a finished point is not written again", "recovery.backup.pipeline",
        "            raise lost_race(identity.point_id, upload.name)\n\n    async def _write_artefact",
        "            return\n\n    async def _write_artefact",
        f"{PIPELINE}::test_a_point_that_exists_is_not_touched_by_a_late_attempt"),
    row("the check before the manifest", "recovery.backup.pipeline",
        "        if check is not None:\n            await check()", "        pass",
        f"{PIPELINE}::test_a_check_that_raises_prevents_the_point"),
    row("objects are counted before the manifest", "recovery.backup.pipeline",
        "                if missing:\n", "                if False:\n",
        f"{PIPELINE}::test_objects_that_somebody_removed_meanwhile_prevent_the_manifest"),
    row("the owner's region", "recovery.adapters.recovery_points",
        "check=lambda: self._same_epoch(order)", "check=None",
        f"{POINTS}::test_a_backup_whose_region_lost_the_group_meanwhile_is_not_kept[moved]"),
    row("the owner's epoch", "recovery.adapters.recovery_points",
        "record.region != order.region or (order.epoch is not None and record.epoch != order.epoch)",
        "record.region != order.region",
        f"{POINTS}::test_a_backup_whose_region_lost_the_group_meanwhile_is_not_kept[moved and back]"),
    row("an existing point is found again", "recovery.adapters.recovery_points",
        "        if done is not None:\n            return done\n", "",
        f"{POINTS}::test_a_second_attempt_finds_the_point_of_the_first_and_writes_nothing"),
    row("the lock of backups", "recovery.adapters.backup_lock",
        "        await _acquire(session, point_id, kind)\n", "",
        "tests/integration/test_backup_lock.py::test_a_second_backup_is_refused_with_the_point_of_the_first"),
    row("a hanging attempt's lock", "recovery.adapters.backup_lock",
        'await session.execute("SELECT pg_terminate_backend($1)", holder["pid"])', "pass",
        "tests/integration/test_backup_lock.py::test_an_attempt_takes_the_lock_from_the_attempt_before_it"),
    row("a manifest protects its objects", "recovery.backup.leftovers",
        "    if named is not None:\n", "    if False:\n",
        f"{POINTS}::test_an_unfinished_point_is_removed_and_a_finished_one_is_not"),
    row("copies are checked on their way", "recovery.backup.fill",
        "if len(body) != entry.size or await asyncio.to_thread(sha256_hex, body) != entry.sha256:", "if False:",
        f"{POINTS}::test_filling_does_not_copy_damage"),
    row("a repair overwrites only what was found damaged", "recovery.backup.repair",
        "body, if_match=damaged.etag, sha256=sha256", "body, sha256=sha256",
        f"{REPAIR}::test_what_somebody_else_wrote_meanwhile_is_not_overwritten"),
    row("a repair begins only where all is intact somewhere", "recovery.backup.repair",
        "        if lost:\n", "        if False:\n",
        f"{REPAIR}::test_what_is_intact_nowhere_is_said_and_nothing_is_written"),
    row("a repair's source is checked again", "recovery.backup.repair",
        "if there is not None and await _is_right(there[0], entry):", "if there is not None:",
        f"{REPAIR}::test_a_source_that_is_damaged_meanwhile_gives_nothing"),
    row("a repair replaces nobody's manifest", "recovery.backup.repair",
        "            if self._is_ours(body):",
        "            return _Copy(store, etag, sound=False)\n            if self._is_ours(body):",
        f"{REPAIR}::test_a_manifest_of_somebody_elses_is_left_for_a_person"),
    row("a repaired point is proven", "activities.validations",
        "            if verdict is None or verdict.run_id != context.run_id or verdict.state is VerdictState.CORRUPT:",
        "            if verdict is None:",
        f"{STEPS}::test_a_repaired_point_counts_once_it_was_restored_again"),
    # Keys.
    row("the wrong key, before any download", "recovery.backup.reader",
        "if not set(opener.recipients) & set(manifest.recipients):", "if False:",
        f"{POINTS}::test_a_wrong_key_is_said_before_any_object_is_downloaded"),
    row("the key is tried before all objects are fetched", "recovery.adapters.point_judge",
        "await check_key(point.manifest, self.keys.opening(), stores)", "pass",
        f"{POINTS}::test_a_key_that_the_manifest_names_and_that_does_not_open_costs_one_object"),
    row("the key, before a restore", "recovery.adapters.restores",
        "await check_key(member.manifest, self.keys.opening(), catalogue.stores_of(member))", "pass",
        f"{RESTORES}::test_a_wrong_key_is_refused_before_any_download"),
    # Targets.
    row("an empty target", "recovery.adapters.restores",
        "passed=empty,", "passed=True,", f"{RESTORES}::test_an_occupied_target_is_refused_with_what_to_do"),
    row("the major version", "recovery.adapters.restores",
        "passed=wanted in majors,", "passed=True,", f"{RESTORES}::test_a_wrong_major_version_is_refused_with_both"),
    row("space on the disk", "recovery.adapters.restores",
        "passed=free >= needed,", "passed=True,", f"{RESTORES}::test_missing_space_is_refused_with_both_sizes"),
    row("the major version of a running server", "recovery.adapters.restores",
        "passed=major >= wanted,", "passed=True,",
        f"{RESTORES}::test_an_older_server_is_refused_with_both_versions"),
    row("an empty database", "recovery.adapters.restores",
        "passed=not occupied,", "passed=True,",
        f"{RESTORES}::test_a_database_that_holds_something_is_refused_with_what_to_do"),
    row("space on a running server's disk", "recovery.adapters.restores",
        "passed=enough,", "passed=True,", f"{RESTORES}::test_a_server_on_this_machine_without_room_is_refused"),
    row("clients are let in", "recovery.adapters.restores",
        "await engine.set_database_read_only(login, database, False)", "pass",
        f"{RESTORES}::test_clients_are_let_into_every_database_of_a_logical_restore"),
    # Verdicts of a restored server.
    check("tables-readable", "not seen.unreadable"),
    check("critical-tables", "not bad", f"{CHECKS}::test_a_critical_table_that_is_missing_or_empty_fails"),
    check("fingerprints", "not bad"),
    check("sequences", "not bad"),
    check("large-objects", "not bad"),
    check("roles", "not missing"),
    check("extensions", "not missing"),
    row("check row counts", "recovery.adapters.postgres.checks",
        "if content.rows != entry.rows:", "if False:", BROKEN),
    row("check checksums", "recovery.adapters.postgres.checks",
        "if any(recorded is not None and found != recorded for recorded, found in sums):", "if False:", BROKEN),
    row("check sums of values", "recovery.adapters.postgres.checks",
        ", (entry.hashes, content.values))", ",)", BROKEN),
    row("check canary", "recovery.adapters.postgres.checks",
        'name="canary", passed=there, detail=detail', 'name="canary", passed=True, detail=detail',
        f"{CHECKS}::test_a_missing_canary_fails_and_one_that_was_never_written_is_named"),
    row("check indexes", "recovery.adapters.postgres.checks",
        "passed=not damaged", "passed=True", f"{CHECKS}::test_a_damaged_index_fails"),
    row("check collations", "recovery.adapters.postgres.checks",
        "if recorded.get(name, version) != version", "if False",
        f"{CHECKS}::test_a_server_that_sorts_otherwise_warns_with_the_command_that_mends_it"),
    row("extensions before a restore", "recovery.adapters.restores",
        "passed=starts or not missing,", "passed=True,",
        f"{RESTORES}::test_a_server_that_lacks_an_extension_is_refused_with_its_name"),
    row("pg_verifybackup", "recovery.adapters.postgres.restore",
        "        if done.code != 0:\n            words = \"; \".join(line.removeprefix(\"pg_verifybackup",
        "        if False:\n            words = \"; \".join(line.removeprefix(\"pg_verifybackup",
        "tests/integration/test_postgres_validation.py::test_a_flipped_byte_in_a_file_of_the_cluster_is_corrupt"),
    row("unproven files are compared", "recovery.adapters.restores", "proven=point.is_valid", "proven=True",
        f"{RESTORES}::test_the_files_of_a_point_are_compared_unless_its_newest_verdict_says_valid"),
    row("combined files are compared", "recovery.adapters.postgres.restore",
        "if self._options.proven and not self._reader.bases", "if self._options.proven",
        "tests/unit/postgres/test_restore_on_disk.py::test_only_files_that_a_validation_compared_are_not_read_again"),
    row("members stay in the folder", "recovery.adapters.postgres.unpacking",
        'or ".." in parts:', "or False:",
        "tests/unit/postgres/test_unpacking.py::test_what_no_base_backup_holds_is_refused"),
    row("the overall verdict", "activities.validations",
        "        if bad:\n            words = ", "        if False:\n            words = ",
        f"{STEPS}::test_one_point_that_is_not_valid_fails_the_validation"),
    # Retention.
    row("the last validated point stays", "recovery.domain.retention",
        '    return kept | dict.fromkeys([*valid[:1], *whole[:1]], "the newest validated point")', "    return kept",
        f"{POINTS}::test_retention_removes_old_points_and_never_the_last_validated"),
    row("no clock alone expires", "recovery.domain.retention",
        "for point_id, why in by_location.items()}", "for point_id, why in {}.items()}",
        f"{POINTS}::test_retention_asks_the_locations_since_when_they_have_a_point"),
    row("young orphans stay", "recovery.backup.catalogue",
        "if orphan.youngest >= older_than or orphan.point_id in running:", "if False:",
        f"{POINTS}::test_orphans_go_after_a_day_and_not_while_they_may_be_a_running_backups"),
    # The group's lock.
    row("no undo after the pivot", "activities.lock",
        "        if is_pivoted(record):\n            raise Refused(no_return(record))\n", "",
        f"{OWNERSHIP}::TestAfterThePivot::test_undo_is_refused_with_what_to_do"),
    row("no undo by who does not hold the group", "activities.lock",
        "    if context.facts.ownership is not None:\n        raise Refused(_not_held(record, context))\n", "",
        f"{OWNERSHIP}::test_undo_is_refused_when_another_run_took_the_group_over"),
    row("no claim of a pivoted group", "activities.ownership",
        "            if is_pivoted(record):\n", "            if False:\n",
        f"{OWNERSHIP}::TestAfterThePivot::test_another_run_may_not_claim"),
    row("only the holder changes the record", "activities.lock",
        "    if record is None or not is_held_by(record, context):\n", "    if record is None:\n",
        f"{OWNERSHIP}::test_who_does_not_hold_the_group_changes_nothing"),
    # Plans, streams and archived WAL: the first of each, the others below.
    row("a failure past the pivot undoes nothing", "workflows.engine",
        "        if self._pivot_started:\n            raise StoppedByOperator(step.name, reason)\n", "",
        f"{NO_RETURN}::test_a_failure_is_held_and_an_abort_leaves_everything_as_it_is"),
    row("only persons", "workflows.gates",
        " or gate.only_persons)", ")",
        f"{CONSENTS}::test_silence_is_no_consent_where_only_a_persons_word_is"),
    row("the second person at a gate", "workflows.gates",
        "self._control.not_by[step.name] = request.requested_by", "pass",
        f"{CONSENTS}::test_where_two_persons_are_asked_for_the_first_is_not_the_second"),
    row("the checks of restored data and of targets", "activities.restores",
        "    if failed:\n        raise error(", "    if False:\n        raise error(",
        f"{DEMANDED}::test_one_check_that_failed_ends_the_step"),
    row("streams that are there already", "recovery.adapters.nats.restores",
        "passed=not there or order.replace,", "passed=True,", IN_THE_WAY),
    row("recovery target", "recovery.adapters.wal_recovery",
        "passed=wrong is None,", "passed=True,", f"{WAL}::test_an_end_that_is_not_the_target_is_found_out"),
]  # fmt: skip
FURTHER = [
    *WATCHING,
    *REDIS_ROWS,
    *SEARCH_ROWS,
    *STREAM_ROWS,
    *GUARD_ROWS,
    *LOCK_ROWS,
    *KEEPING_ROWS,
    *CONFIRMATION_ROWS,
    *PATRONI_ROWS,
    *CONFIG_ROWS,
    *RDS_ROWS,
    *FOLDER_ROWS,
    # Plans.
    row("past the pivot nothing is cut off", "workflows.engine",
        "if self._forward is not None and not self._pivot_started:", "if self._forward is not None:",
        f"{NO_RETURN}::test_an_abort_in_the_pivot_does_not_cut_in"),
    row("the pivot is recorded before it starts", "workflows.engine",
        "        if step.pivot:\n            await self._record_pivot(step)\n", "",
        f"{NO_RETURN}::test_the_point_of_no_return_is_recorded_before_its_step_starts"),
    row("the record is asked before anything is undone", "workflows.engine",
        "if self.plan.locks_group and not await self._may_undo():", "if False:",
        f"{NO_RETURN}::test_nothing_is_undone_that_the_ownership_record_does_not_permit"),
    row("a gate that is declined", "workflows.gates",
        "if consent is Consent.DECLINED:", "if False:",
        f"{CONSENTS}::test_a_gate_that_is_declined_ends_the_run"),
    row("silence about what a monitor started", "workflows.gates",
        "not (automatic or second", "not (second",
        f"{CONSENTS}::test_silence_is_no_consent_to_what_a_monitor_started"),
    row("a second person is asked whatever was approved beforehand", "workflows.gates",
        "if gate.given(context) and not second:", "if gate.given(context):",
        f"{CONSENTS}::test_where_two_persons_are_asked_for_the_first_is_not_the_second"),
    row("the second person for a loss", "workflows.amendments",
        "if group is not None and group.second_person and asked_by == command.actor.strip().lower():", "if False:",
        f"{CONSENTS}::test_a_loss_is_not_accepted_by_whoever_started_the_run"),
    row("a name and a reason", "workflows.control",
        "if not command.actor.strip() or not command.reason.strip():", "if False:",
        f"{CONSENTS}::test_nothing_is_done_without_a_name_and_a_reason"),
    row("only what a hold offers", "workflows.control",
        "if choice not in hold.choices:", "if False:",
        f"{CONSENTS}::test_what_a_hold_does_not_offer_is_refused"),
    row("the health endpoints", "activities.services",
        "        if failed:\n", "        if False:\n",
        f"{DEMANDED}::test_one_endpoint_that_is_not_well_is_asked_again_until_it_is"),
    row("the precheck of a target", "activities.choosing",
        "if blocking and not context.request.force:", "if False:",
        f"{CHOOSING}::test_a_switchover_needs_a_target_that_is_ready_and_a_failover_only_its_database"),
    row("a final position that nobody knows", "activities.choosing",
        "if unknown and not context.request.accept_data_loss:", "if False:",
        f"{CHOOSING}::test_an_unknown_final_position_proves_nothing"),
    row("a reason for what costs data", "activities.choosing",
        "if asked and not context.request.reason.strip():", "if False:",
        f"{CHOOSING}::test_what_costs_data_or_safety_needs_a_reason"),
    row("a proof before a promotion", "activities.guarding",
        "    if context.facts.fence is None:\n        raise Refused(f\"{context.step} needs the proof",
        "    if False:\n        raise Refused(f\"{context.step} needs the proof",
        f"{HANDOVER}::test_nothing_is_promoted_without_a_proof"),
    # Streams.
    row("a stream's name", "recovery.adapters.nats.restores",
        "passed=not renamed,", "passed=True,", IN_THE_WAY),
    row("a server that reads the archives", "recovery.adapters.nats.restores",
        'name="server version", passed=False,', 'name="server version", passed=True,', IN_THE_WAY),
    row("replicas on a single server", "recovery.adapters.nats.restores",
        'name="replicas", passed=False,', 'name="replicas", passed=True,', IN_THE_WAY),
    row("another restore's streams", "recovery.adapters.nats.restores",
        " and seen.streams[part.stream].restore_id != order.restore_id",
        " and not seen.streams[part.stream].restore_id",
        f"{STREAMS}::test_another_restores_half_is_not_ours"),
    row("a restored stream beside its point", "recovery.adapters.nats.restores",
        "passed=not differences,", "passed=True,", f"{STREAMS}::test_a_restored_stream_is_held_against_its_point"),
    # Archived WAL.
    row("the target's timeline", "recovery.adapters.wal_recovery",
        "if reached.timeline != expected:", "if False:", f"{WAL}::test_an_end_that_is_not_the_target_is_found_out"),
    row("a record that was not replayed", "recovery.adapters.wal_recovery",
        "if end is not None and end <= until:", "if False:",
        f"{WAL}::test_an_end_that_is_not_the_target_is_found_out"),
    row("who may use the socket of the WAL archive", "recovery.adapters.wal_socket",
        "if self._user_of(writer) in self._users:", "if True:",
        f"{WAL_FILES}::test_another_user_is_sent_away"),
    row("a copy does not archive into its source's archive", "recovery.backup.wal.handing",
        "if segment is not None and not self._is_of(segment):", "if False:",
        f"{WAL_FILES}::test_what_must_not_be_archived_is_refused"),
    row("a segment is what its name says", "recovery.backup.wal.handing",
        "if address != span.start or len(body) != size or timeline > number:", "if False:",
        f"{WAL_FILES}::test_what_must_not_be_archived_is_refused"),
    row("other WAL under an equal name", "recovery.backup.wal.location",
        "if there.plain_sha256 != record.plain_sha256:", "if False:",
        f"{WAL_ARCHIVE}::test_another_whole_unit_is_refused"),
    # What is held up between a check and its effect.
    row("a decision replaces what it was made on", "recovery.guard.record",
        "        if self.record != over:\n            return False\n", "",
        f"{PAUSES}::test_what_was_decided_before_a_long_question_is_not_written_over_what_became_of_it"),
    row("what was demoted is adopted first", "recovery.guard.standing",
        "        if self.anew:\n", "        if False:\n",
        f"{PAUSES}::test_a_promotion_that_was_held_up_since_it_was_armed_is_judged_anew"),
    row("a failover changes names while it holds the group", "activities.dns",
        '        await demand(context.model_copy(update={"lock": LockDemand.HELD}))\n', "        pass\n",
        f"{NAMES}::test_a_change_that_was_held_up_past_its_check_is_taken_back_where_the_group_was_lost"),
    row("a late change of names is taken back", "activities.dns",
        "                    await self._zone.replace(list(zip(new, old, strict=True)))\n",
        "                    pass\n",
        f"{NAMES}::test_a_change_that_was_held_up_past_its_check_is_taken_back_where_the_group_was_lost"),
    row("late names that are right stay", "activities.dns",
        "if record is not None and record.region == region:", "if False:",
        f"{NAMES}::test_a_late_change_stays_where_the_group_was_moved_to_that_very_region"),
]  # fmt: skip


@pytest.fixture(scope="module")
async def outcomes(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """All mutations that are asked for in one process, which loads the libraries once."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.mutant",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    params = (getattr(getattr(item, "callspec", None), "params", {}) for item in request.session.items)
    asked = [found["mutation"] for found in params if isinstance(found.get("mutation"), Mutation)]
    wanted = [{**asdict(mutation), "tests": [mutation.test]} for mutation in asked]
    try:
        output, _ = await process.communicate(json.dumps(wanted).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = [json.loads(line) for line in output.splitlines()]
    return {outcome["name"]: outcome for outcome in found}


@pytest.mark.timeout(900)  # the first one waits for all of them
@pytest.mark.parametrize(
    "mutation",
    [
        *(pytest.param(mutation, id=mutation.name) for mutation in MUTATIONS),
        *(pytest.param(mutation, id=mutation.name, marks=pytest.mark.chaos) for mutation in FURTHER),
    ],
)
async def test_a_guard_that_is_switched_off_is_missed(outcomes: dict[str, dict[str, Any]], mutation: Mutation) -> None:
    outcome = outcomes[mutation.name]
    assert outcome["broken"] == []
    assert outcome["failed"], f"{mutation.test} passes without it"


def test_every_mutation_has_a_name_of_its_own() -> None:
    assert len({mutation.name for mutation in [*MUTATIONS, *FURTHER]}) == len(MUTATIONS) + len(FURTHER)

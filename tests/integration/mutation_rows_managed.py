"""Rows of the mutation tests: what commands ask beforehand, databases at RDS, and folders of streams."""

from __future__ import annotations

from tests.integration.mutation import row

CONFIRMATIONS = "tests/unit/drctl/test_confirmations.py"
HANDOVERS = "tests/unit/drctl/test_handovers.py"
MANAGED = "tests/unit/domain/test_managed.py"
PATRONI = "tests/contract/test_patroni.py"
RDS = "tests/contract/test_managed_postgres.py"
RDS_RESTORES = "tests/contract/test_rds_restores.py"
RDS_SNAPSHOTS = "tests/contract/test_rds_snapshots.py"
NAME = f"{CONFIRMATIONS}::test_nothing_but_the_groups_name_lets_a_command_go_on"
NAMED_REASONS = f"{MANAGED}::test_each_replica_that_cannot_be_promoted_is_named_with_its_reason"

CONFIRMATION_ROWS = [
    row("the group's name is typed", "drctl.output", "    if typed.strip() != group:\n", "    if False:\n", NAME),
    row("somebody can answer", "drctl.output",
        'if output is Output.JSON or not out.is_terminal or not typer.get_text_stream("stdin").isatty():', "if False:",
        f"{CONFIRMATIONS}::test_where_nobody_can_answer_nothing_is_asked"),
    row("a handover is confirmed", "drctl.handovers",
        "    confirm_group(name, asks(loaded, request), yes=yes, output=output)\n", "",
        f"{HANDOVERS}::test_each_is_confirmed_by_the_groups_name_or_by_yes"),
    row("a reason for a handover that costs something", "drctl.handovers",
        "    _demand_reason(request)\n", "", f"{HANDOVERS}::test_what_costs_data_or_safety_needs_a_reason"),
    row("the replacement of a database is confirmed", "drctl.database",
        'what that lacks is lost.", yes=yes, output=output', 'what that lacks is lost.", yes=True, output=output',
        f"{CONFIRMATIONS}::test_a_database_is_replaced_once_the_groups_name_was_typed"),
    row("a reason for the replacement of a database", "drctl.database",
        "    if (force or confirm_fence) and not reason.strip():\n", "    if False:\n",
        f"{CONFIRMATIONS}::test_what_replaces_a_database_that_may_serve_needs_a_reason"),
    row("an abort behind the pivot is confirmed", "drctl.answers",
        "    if not pivots:\n", "    if True:\n", f"{CONFIRMATIONS}::test_an_abort_behind_the_pivot_is_confirmed"),
    row("a loss is confirmed", "drctl.answers",
        '    confirm_group(report.group, f"This may lose acknowledged data ({words}).", yes=yes, output=output)\n', "",
        f"{CONFIRMATIONS}::test_a_loss_is_confirmed"),
    row("a failback goes home", "drctl.handovers",
        "    if request.region not in (None, home):\n", "    if False:\n",
        f"{HANDOVERS}::test_a_failback_goes_home_and_nowhere_else"),
]  # fmt: skip

RDS_ROWS = [
    row("a replica of another region", "recovery.domain.managed",
        "    if region is not None and replica.region != region:\n", "    if False:\n",
        f"{MANAGED}::test_a_region_that_was_named_is_kept_to"),
    row("a replica of another instance", "recovery.domain.managed",
        "    if replica.replica_of != source:\n", "    if False:\n", NAMED_REASONS),
    row("a replica that is not available", "recovery.domain.managed",
        "    if not replica.is_available:\n", "    if False:\n", NAMED_REASONS),
    row("a replica that does not follow", "recovery.domain.managed",
        "    if replica.replication_error is not None:\n", "    if False:\n",
        f"{MANAGED}::test_a_replica_that_does_not_follow_is_not_promoted"),
    row("a snapshot that is not finished", "recovery.domain.managed",
        'found = [each for each in found if each.status == "available"]', "found = list(found)",
        f"{MANAGED}::test_the_newest_finished_snapshot_is_restored_and_of_two_copies_the_one_at_home"),
    row("a snapshot of another region", "recovery.domain.managed",
        "found = [each for each in snapshots if region is None or each.region == region]", "found = list(snapshots)",
        f"{MANAGED}::test_a_region_that_was_named_is_kept_to"),
    row("an instance that has a replica", "recovery.adapters.rds",
        "        if now.replicas or now.replica_of:\n", "        if False:\n",
        f"{RDS}::test_an_instance_with_a_replica_is_never_stopped"),
    row("an instance that others made", "recovery.adapters.rds",
        "        if found is not None and found.mark != mark:\n", "        if False:\n",
        f"{RDS}::test_a_restore_is_marked_repeated_and_removed_by_its_mark_only"),
    row("a restored instance", "recovery.adapters.managed_restores",
        'name="instance", passed=fits', 'name="instance", passed=True',
        f"{RDS_RESTORES}::test_a_restored_instance_that_is_not_right_fails_its_checks"),
    row("a snapshot that others made", "recovery.adapters.rds_snapshots",
        "    if not demanded(found, tags):\n", "    if False:\n",
        f"{RDS_SNAPSHOTS}::test_only_what_carries_the_points_tags_is_deleted"),
    row("a snapshot of a location that is not configured any more", "recovery.adapters.managed_points",
        "                if not known or each.taken_at < min(known):\n", "                if False:\n",
        f"{RDS_SNAPSHOTS}::test_a_snapshot_older_than_all_points_is_named_and_stays"),
]  # fmt: skip

STREAM_FOLDERS = "tests/unit/streams/test_stream_folders.py"
NO_BACKUP = f"{STREAM_FOLDERS}::test_what_is_no_backup_is_said"
ONE_BACKUP = f"{STREAM_FOLDERS}::test_files_that_are_not_of_one_whole_backup_are_corrupt"
UNTOUCHED = f"{STREAM_FOLDERS}::test_nothing_is_touched_where_one_of_them_cannot_be_restored"

FOLDER_ROWS = [
    row("two folders of one stream", "recovery.adapters.nats.folder",
        "        if each.stream in found:\n", "        if False:\n", NO_BACKUP),
    row("a stream that a folder lacks", "recovery.adapters.nats.folder",
        "        if stream not in found:\n", "        if False:\n", NO_BACKUP),
    row("a folder that is none", "recovery.adapters.nats.folder",
        "    if not folder.is_dir():\n", "    if False:\n", NO_BACKUP),
    row("a folder without a backup", "recovery.adapters.nats.folder",
        "    if not paths:\n", "    if False:\n", NO_BACKUP),
    row("files of two backups", "recovery.adapters.nats.folder",
        "        if head.state is not None and int(head.state.get(name, -1)) != int(str(stored.state[name])):\n",
        "        if False:\n", ONE_BACKUP),
    row("an archive's first entry", "recovery.adapters.nats.archive",
        "        if name != STATE_ENTRY:\n", "        if False:\n", ONE_BACKUP),
    row("replicas of a folder's stream", "recovery.adapters.nats.folder",
        "        if (options.replicas or folder.replicas) > 1 and not seen.clustered:\n", "        if False:\n",
        UNTOUCHED),
    row("streams of a folder that are there already", "recovery.adapters.nats.folder",
        "    if there and not options.replace:\n", "    if False:\n", UNTOUCHED),
    row("streams that were restored before an error", "recovery.adapters.nats.folder",
        "            if not done:\n                raise\n", "            raise\n",
        f"{STREAM_FOLDERS}::test_an_error_on_the_way_names_what_is_there_by_then"),
    row("an instance that clients use", "recovery.adapters.managed_restores",
        "        if found.opened is not None:\n", "        if False:\n",
        f"{RDS_RESTORES}::test_a_copy_comes_back_as_an_instance_with_the_network_of_the_groups_own"),
    row("a snapshot that a location may name", "recovery.adapters.managed_points",
        "if point_of(each) in named or each.taken_at >= before:", "if each.taken_at >= before:",
        f"{RDS_SNAPSHOTS}::test_what_an_aborted_backup_left_is_deleted_by_a_later_retention"),
]  # fmt: skip

PATRONI_ROWS = [
    row("a member's own server is at rest", "recovery.adapters.patroni_rest",
        'return self.state in _OFF or (self.role not in _PRIMARIES and self.state != "unknown")', "return True",
        f"{PATRONI}::test_a_server_that_stays_a_primary_is_not_fenced"),
    row("a fenced cluster is asked until it answers", "recovery.adapters.unguarded",
        "                if record.epoch != order.epoch:\n", "                if False:\n",
        f"{PATRONI}::test_an_old_cluster_that_never_answered_holds_up_no_undo"),
    row("where the fenced side ended", "recovery.adapters.unguarded",
        "if each.role is StoreRole.STANDBY and each.position}", "if each.position}",
        "tests/unit/test_unguarded.py::test_where_a_fenced_side_ended_is_part_of_the_proof"),
    row("a manager's own slots", "activities.standbys",
        '        if context.group.managed_by != "self":\n', "        if False:\n",
        "tests/unit/activities/test_reprotect_steps.py::test_a_manager_makes_the_slots_of_its_own_standbys"),
    row("each member says so", "recovery.adapters.patroni",
        "all(standing is not None and standing.is_at_rest for standing in standings)",
        "any(standing is not None and standing.is_at_rest for standing in standings)",
        f"{PATRONI}::test_a_member_that_does_not_say_that_it_is_at_rest_is_no_proof"),
    row("one cluster lists the source's members", "recovery.adapters.patroni",
        "return not follows and (source.spans_regions or bool(state.inside(source.members)))", "return not follows",
        f"{PATRONI}::test_a_lost_regions_members_are_forgotten_and_its_operator_says_that_it_is_one_cluster"),
    row("a standby cluster is no part of another", "recovery.adapters.patroni",
        "        follows = await there.follows_another()\n", "        follows = False\n",
        f"{PATRONI}::test_a_standby_cluster_that_is_said_to_be_the_only_one_is_refused"),
    row("the new leader's own server takes writes", "recovery.adapters.patroni_rest",
        'return self.role in _PRIMARIES and self.state == "running"', "return True",
        f"{PATRONI}::test_a_standby_cluster_is_promoted_by_its_configuration"),
]  # fmt: skip

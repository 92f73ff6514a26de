"""What the packaged PostgreSQL is asked to show, shown with the distribution's (15 on Debian 12): the same tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration import ledger
from tests.integration.postgres_pair import Node, cluster
from tests.integration.postgres_servers import Server, public_folder, running_source
from tests.integration.test_postgres_backup import (
    test_a_column_that_was_added_without_touching_a_row_is_a_change,
    test_a_row_that_came_and_went_during_the_backup_is_a_change,
    test_last_commit_is_never_later_than_the_stop,
    test_logical_fingerprints_are_those_of_the_dump_under_load,
    test_nothing_stays_at_the_source_after_a_physical_backup,
    test_row_versions_alone_tell_what_changed,
    test_sums_of_values_differ_where_the_text_does,
)
from tests.integration.test_postgres_rejoin import (
    sealer,
    test_an_interrupted_rewind_is_never_started_and_then_cloned,
    test_divergence_lists_exactly_the_lost_transactions_and_saves_their_wal,
    test_nothing_diverged_after_a_planned_end,
    test_the_old_primary_is_rewound,
)
from tests.integration.test_postgres_restore import (
    logical,
    physical,
    restored,
    target,
    test_all_checks_pass_on_the_restored_server,
    test_restored_server_is_a_primary_of_its_own_that_ends_at_the_stop_lsn,
    test_restored_server_is_safe_and_sound,
    test_restored_server_survives_a_crash_and_a_restart,
)
from tests.integration.test_postgres_restore_logical import (
    copy,
    test_a_logical_restore_is_exactly_the_dumps_snapshot,
)
from tests.integration.test_postgres_validation import (
    points,
    scratch,
    test_a_flipped_byte_in_a_file_of_the_cluster_is_corrupt,
)
from tests.integration.test_wal_archive import (
    archive,
    test_a_slot_that_nobody_streams_from_follows_the_archive,
    test_after_a_promotion_another_receiver_takes_over_across_the_fork,
    test_files_that_the_server_hands_over_are_those_that_were_streamed,
    test_killed_receivers_leave_no_gap_and_recoveries_find_exactly_what_was_archived,
    test_the_server_keeps_what_is_not_acknowledged_and_memory_is_bounded,
    test_wal_that_was_removed_unarchived_is_told_as_a_gap_and_the_archive_goes_on,
)
from tests.system.debian_postgres import WITHOUT_VECTOR, newest

pytestmark = pytest.mark.system
__all__ = [
    "archive",
    "copy",
    "logical",
    "physical",
    "points",
    "restored",
    "scratch",
    "sealer",
    "target",
    "test_a_column_that_was_added_without_touching_a_row_is_a_change",
    "test_a_flipped_byte_in_a_file_of_the_cluster_is_corrupt",
    "test_a_logical_restore_is_exactly_the_dumps_snapshot",
    "test_a_row_that_came_and_went_during_the_backup_is_a_change",
    "test_a_slot_that_nobody_streams_from_follows_the_archive",
    "test_after_a_promotion_another_receiver_takes_over_across_the_fork",
    "test_all_checks_pass_on_the_restored_server",
    "test_an_interrupted_rewind_is_never_started_and_then_cloned",
    "test_divergence_lists_exactly_the_lost_transactions_and_saves_their_wal",
    "test_files_that_the_server_hands_over_are_those_that_were_streamed",
    "test_killed_receivers_leave_no_gap_and_recoveries_find_exactly_what_was_archived",
    "test_last_commit_is_never_later_than_the_stop",
    "test_logical_fingerprints_are_those_of_the_dump_under_load",
    "test_nothing_diverged_after_a_planned_end",
    "test_nothing_stays_at_the_source_after_a_physical_backup",
    "test_restored_server_is_a_primary_of_its_own_that_ends_at_the_stop_lsn",
    "test_restored_server_is_safe_and_sound",
    "test_restored_server_survives_a_crash_and_a_restart",
    "test_row_versions_alone_tell_what_changed",
    "test_sums_of_values_differ_where_the_text_does",
    "test_the_old_primary_is_rewound",
    "test_the_server_keeps_what_is_not_acknowledged_and_memory_is_bounded",
    "test_wal_that_was_removed_unarchived_is_told_as_a_gap_and_the_archive_goes_on",
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


@pytest.fixture(scope="module")
async def source(folder: Path) -> AsyncIterator[Server]:
    major, postgres = newest()
    async with running_source(folder, major=major, postgres=postgres, schema=WITHOUT_VECTOR, tablespace=True) as found:
        yield found


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """For what ends its server: in a folder of its own."""
    major, postgres = newest()
    with public_folder() as path:
        async with running_source(path, major=major, postgres=postgres, schema=ledger.SCHEMA) as found:
            yield found


@pytest.fixture
def newest_server(server: Server) -> Server:
    return server


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Node, Node]]:
    major, postgres = newest()
    with public_folder() as path:
        async with cluster(path, "a", "b", major=major, postgres=postgres) as (a, b):
            yield a, b

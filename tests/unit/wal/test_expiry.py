"""What an archive of WAL removes: nothing that a recovery could still read."""

from __future__ import annotations

from recovery.backup.wal import layout
from recovery.backup.wal.expiry import expire_branch, superseded
from recovery.domain.wal_archive import Branch, WalPiece
from tests.fakes.object_store import MemoryStore

UNIT = 16 << 20
FIRST, SECOND = WalPiece(0, UNIT), WalPiece(UNIT, 2 * UNIT)


def test_what_ends_before_the_oldest_point_goes_and_nothing_else() -> None:
    assert superseded([FIRST, SECOND], 0) == []
    assert superseded([FIRST, SECOND], UNIT) == [FIRST]
    assert superseded([FIRST, SECOND], UNIT + 1) == [FIRST], "the point begins within the second"
    running = WalPiece(2 * UNIT, 2 * UNIT + 50, 7)
    assert superseded([FIRST, SECOND, running], UNIT) == [FIRST], "nothing else has what the last one holds"


def test_partials_go_when_their_unit_is_there_as_a_whole() -> None:
    covered, running = WalPiece(40, 900, 7), WalPiece(UNIT, UNIT + 50, 7)
    assert superseded([FIRST, covered, running], 0) == [covered]
    assert superseded([covered, running], 0) == [], "without a unit they are all there is"
    ended, later = WalPiece(UNIT, UNIT + 100), WalPiece(UNIT + 50, UNIT + 200, 8)
    assert superseded([FIRST, ended, later], 0) == [], "a unit in which a timeline ended covers no more than it has"


async def test_the_object_of_a_unit_stays_where_a_partial_of_its_very_range_goes() -> None:
    """Both are named by their range; which object belongs to which only the signed records say."""
    store, branch = MemoryStore(), Branch(1)
    prefix = layout.archive_prefix("shop", "7000")
    full = WalPiece(0, UNIT, 7)
    records = [layout.piece_key(prefix, branch, piece) for piece in (FIRST, full)]
    objects = [layout.object_key(prefix, branch, FIRST, digest * 64) for digest in "ab"]
    for key in (*records, *objects):
        await store.put(key, b"x")
    assert await expire_branch(store, "shop", "7000", branch, [FIRST, full], 0) == 1
    assert sorted(store.objects) == sorted([records[0], *objects])

"""What a recovery gets from the WAL archive, whatever was stored, lost or damaged at its locations."""

from __future__ import annotations

import json

import pytest

from recovery.backup.sealing import Opener, Sealer
from recovery.backup.signing import Signer, Verifier, generate_signing_key
from recovery.backup.wal.expiry import expire_branch
from recovery.backup.wal.filling import fill_archive
from recovery.backup.wal.reader import archived_servers, fetch_from_any
from recovery.domain.timelines import lsn_text
from recovery.domain.wal_archive import Branch, segment_file
from recovery.errors import BadInput, Corrupt, NotFound, RecoveryError, Refused, Unreachable
from tests.fakes.object_store import MemoryStore, UnreadableStore
from tests.fakes.points import signer
from tests.fakes.wal import FIRST, SEGMENT, FakeServer
from tests.unit.backup.wal_session import archive, readers, running


async def test_what_the_old_primary_wrote_after_the_fork_is_never_served(sealer: Sealer, opener: Opener) -> None:
    store, old, new = MemoryStore(), FakeServer(), FakeServer()
    for server in (old, new):
        server.write(SEGMENT + 5000)
    fork = new.position
    new.promote(2)
    new.write(SEGMENT)
    async with running(old, [store], sealer, epoch=1) as session:
        await session.archived(old.write(3 * SEGMENT))
    async with running(new, [store], sealer, epoch=2) as session:
        await session.until(lambda state: state.timeline == 2 and state.archived == lsn_text(new.position))
    reader = await archive(store, opener).lineage(Branch(2, ((1, fork),)))
    assert reader.reachable_from(FIRST) == new.position
    last = await reader.fetch(segment_file(1, fork, SEGMENT))
    assert last == new.slice(FIRST + SEGMENT, fork).ljust(SEGMENT, b"\0")
    for name in (segment_file(1, fork + SEGMENT, SEGMENT), "00000003.history", "00000001.history"):
        with pytest.raises(NotFound):
            await reader.fetch(name)
    older = await archive(store, opener).lineage(Branch(1))
    assert older.reachable_from(FIRST) == old.position, "who asks for the old timeline gets it"
    assert [status.timeline for status in await archive(store).status()] == [1, 2]


async def test_no_wal_from_a_position_on_is_served(sealer: Sealer, opener: Opener) -> None:
    server, store = FakeServer(), MemoryStore()
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(2 * SEGMENT))
    reader = await archive(store, opener).lineage(Branch(1))
    name = segment_file(1, FIRST, SEGMENT)
    assert await reader.fetch(name, until=FIRST + 77) == server.slice(FIRST, FIRST + 77).ljust(SEGMENT, b"\0")
    with pytest.raises(NotFound):
        await reader.fetch(segment_file(1, FIRST + SEGMENT, SEGMENT), until=FIRST + 77)
    with pytest.raises(BadInput):
        await reader.fetch("../../etc/passwd")


async def test_damage_at_one_location_is_made_good_by_another(sealer: Sealer, opener: Opener) -> None:
    server, stores = FakeServer(), [MemoryStore("a"), MemoryStore("b")]
    async with running(server, stores, sealer) as session:
        await session.archived(server.write(SEGMENT))
    name = segment_file(1, FIRST, SEGMENT)
    for key in [key for key in stores[0].objects if "/objects/" in key]:
        stores[0].objects[key] = b"x" + stores[0].objects[key][1:]
    with pytest.raises(Corrupt):
        await (await archive(stores[0], opener).lineage(Branch(1))).fetch(name)
    assert await fetch_from_any(await readers(stores, opener, Branch(1)), name) == bytes(server.wal)
    with pytest.raises(Corrupt):
        await fetch_from_any(await readers(stores[:1], opener, Branch(1)), name)


async def test_the_location_that_has_more_of_a_segment_is_asked(sealer: Sealer, opener: Opener) -> None:
    server, near, far = FakeServer(), MemoryStore("a"), MemoryStore("b")
    async with running(server, [near, far], sealer) as session:
        await session.archived(server.write(1000))
    async with running(server, [far], sealer) as session:
        await session.archived(server.write(1000))
    found = await fetch_from_any(await readers([near, far], opener, Branch(1)), segment_file(1, FIRST, SEGMENT))
    assert found == bytes(server.wal).ljust(SEGMENT, b"\0")


@pytest.mark.parametrize("error", [Unreachable("503"), Refused("403"), Corrupt("damaged")], ids=type)
async def test_no_segment_is_cut_short_because_the_location_that_has_it_fails(
    sealer: Sealer, opener: Opener, error: RecoveryError
) -> None:
    """PostgreSQL would take the zeros for the end of the WAL, and the recovery would end there."""
    server, near, far = FakeServer(), MemoryStore("a"), UnreadableStore("b")
    async with running(server, [near, far], sealer) as session:
        await session.archived(server.write(1000))
    async with running(server, [far], sealer) as session:
        await session.archived(server.write(SEGMENT - 1000))
    found, name = await readers([near, far], opener, Branch(1)), segment_file(1, FIRST, SEGMENT)
    far.broken = lambda method, key: error if method == "get" else None
    with pytest.raises(type(error)):
        await fetch_from_any(found, name)
    assert await fetch_from_any(found, name, until=FIRST + 1000) == server.slice(FIRST, FIRST + 1000).ljust(
        SEGMENT, b"\0"
    ), "so much the other one has, too"
    far.broken = lambda method, key: None
    assert await fetch_from_any(found, name) == bytes(server.wal)


@pytest.mark.parametrize("removed", ["/objects/", "/pieces/"])
async def test_what_was_listed_and_is_missing_is_damage_and_no_end(
    sealer: Sealer, opener: Opener, removed: str
) -> None:
    server, store = FakeServer(), MemoryStore()
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(2 * SEGMENT))
    reader = await archive(store, opener).lineage(Branch(1))
    await store.delete([key for key in store.objects if removed in key])
    for number in range(2):
        with pytest.raises(Corrupt, match="listed at memory"):
            await reader.fetch(segment_file(1, FIRST + number * SEGMENT, SEGMENT))
    with pytest.raises(NotFound):
        await reader.fetch(segment_file(1, FIRST + 2 * SEGMENT, SEGMENT))


async def test_a_recovery_goes_on_when_partials_became_a_unit_meanwhile(sealer: Sealer, opener: Opener) -> None:
    server, store = FakeServer(), MemoryStore()
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(5000))
        await session.archived(server.write(5000))
    reader = await archive(store, opener).lineage(Branch(1))
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(SEGMENT))
    (timeline,) = await archive(store).timelines()
    assert await expire_branch(store, "shop", "7000", Branch(1), timeline.pieces, FIRST) >= 2
    assert await reader.fetch(segment_file(1, FIRST, SEGMENT)) == server.slice(FIRST, FIRST + SEGMENT)


async def test_a_forged_or_misplaced_record_is_not_believed(sealer: Sealer, opener: Opener) -> None:
    server, store = FakeServer(), MemoryStore()
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(2 * SEGMENT))
    first, second = sorted(key for key in store.objects if "/pieces/" in key and ".e" not in key)[:2]
    kept = store.objects[first]
    name = segment_file(1, FIRST, SEGMENT)
    stranger = Signer(generate_signing_key().secret)
    for body in (store.objects[second], stranger.sign(json.loads(kept)["payload"])):
        store.objects[first] = body
        with pytest.raises(RecoveryError) as caught:
            await (await archive(store, opener).lineage(Branch(1))).fetch(name)
        assert not isinstance(caught.value, NotFound)


async def test_listing_needs_no_key_and_fetching_does(sealer: Sealer) -> None:
    server, store = FakeServer(), MemoryStore()
    async with running(server, [store], sealer) as session:
        await session.archived(server.write(SEGMENT))
    reader = await archive(store).lineage(Branch(1))
    with pytest.raises(BadInput, match="an age identity is needed"):
        await reader.fetch(segment_file(1, FIRST, SEGMENT))
    with pytest.raises(NotFound, match="no WAL of the timelines"):
        await archive(store).lineage(Branch(9))


async def test_a_location_that_missed_pieces_is_filled_from_another(sealer: Sealer, opener: Opener) -> None:
    server, full, late = FakeServer(), MemoryStore("a"), MemoryStore("b")
    verifier = Verifier([signer().public_key])
    async with running(server, [full], sealer) as session:
        await session.archived(server.write(SEGMENT + 100))
        server.promote(2)
    server.write(SEGMENT)
    async with running(server, [full], sealer) as session:
        await session.until(lambda state: state.timeline == 2 and state.lag_bytes == 0)
    pieces = [key for key in full.objects if "/pieces/" in key]
    assert await fill_archive(full, late, "shop", "7000", verifier) == len(pieces)
    assert await fill_archive(full, late, "shop", "7000", verifier) == 0
    assert late.objects == full.objects
    assert await archived_servers(late, "shop") == ["7000"]
    assert await archived_servers(late, "other") == []


async def test_damage_is_not_spread_by_a_fill(sealer: Sealer) -> None:
    server, full, late = FakeServer(), MemoryStore("a"), MemoryStore("b")
    async with running(server, [full], sealer) as session:
        await session.archived(server.write(SEGMENT))
    key = next(key for key in full.objects if "/objects/" in key)
    full.objects[key] = full.objects[key][:-1] + b"?"
    with pytest.raises(Corrupt, match="differs from its record"):
        await fill_archive(full, late, "shop", "7000", Verifier([signer().public_key]))
    assert key not in late.objects

"""Writing a recovery point while locations fail, hang or crawl, and while it is cancelled: never half of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from recovery.backup.sealing import Opener, Sealer
from recovery.backup.upload import WriteBudget
from recovery.errors import Refused, SourceFailed, Unreachable
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.unit.backup.writing import CHUNK, MANIFEST_KEY, QUICK, plain, read_all, source_of, write


@pytest.mark.parametrize("at", [1, 5, 14])
async def test_one_failing_write_is_tried_again(sealer: Sealer, opener: Opener, at: int) -> None:
    shaky = FaultyStore("shaky", fault=lambda number, key: Unreachable("reset") if number == at else None)
    source = source_of()
    written = await write(source, [MemoryStore("a"), shaky], sealer)
    assert written.complete_locations == ["a", "shaky"]
    assert await read_all(shaky, opener) == plain(source)


@pytest.mark.parametrize("error", [Unreachable("no route"), Refused("AccessDenied")])
@pytest.mark.parametrize("at", [1, 6])
async def test_a_location_that_goes_on_failing_is_dropped_and_the_other_finishes(
    sealer: Sealer, opener: Opener, error: Unreachable | Refused, at: int
) -> None:
    bad = FaultyStore("bad", fault=lambda number, key: error if number >= at else None)
    good, source = MemoryStore("good"), source_of()
    patient = replace(QUICK, patience_seconds=60)  # it is not dropped for its pace before
    written = await write(source, [bad, good], sealer, budget=patient)
    assert written.complete_locations == ["good"]
    assert str(error) in written.dropped["bad"]
    assert MANIFEST_KEY not in bad.objects
    assert await read_all(good, opener) == plain(source)


async def test_a_location_that_hangs_is_dropped(sealer: Sealer) -> None:
    hanging, good = FaultyStore("hanging", hang=lambda number, key: number > 3), MemoryStore("good")
    written = await write(source_of(chunks=30), [hanging, good], sealer)
    assert written.complete_locations == ["good"]
    assert "within" in written.dropped["hanging"] or "slower" in written.dropped["hanging"]
    assert MANIFEST_KEY not in hanging.objects


async def test_a_slow_location_does_not_hold_the_others_up_for_ever(sealer: Sealer) -> None:
    slow, good = FaultyStore("slow", pace=0.25), MemoryStore("good")
    began = asyncio.get_running_loop().time()
    written = await write(source_of(chunks=100), [slow, good], sealer)
    assert written.complete_locations == ["good"]
    assert "slower than the other locations" in written.dropped["slow"]
    assert asyncio.get_running_loop().time() - began < 5  # alone the slow one would need 12 s


async def test_locations_that_are_slow_alike_are_all_kept(sealer: Sealer) -> None:
    stores = [FaultyStore(name, pace=0.05) for name in "abc"]
    written = await write(source_of(chunks=40), list(stores), sealer)  # a second, thrice the patience
    assert written.complete_locations == ["a", "b", "c"]


async def test_a_slow_location_that_is_alone_is_waited_for(sealer: Sealer) -> None:
    slow = FaultyStore("slow", pace=0.05)
    assert (await write(source_of(chunks=20), [slow], sealer)).complete_locations == ["slow"]


async def test_refused_at_the_manifest_only_is_dropped_without_one(sealer: Sealer) -> None:
    late = FaultyStore("late", fault=lambda number, key: Refused("no more") if key == MANIFEST_KEY else None)
    written = await write(source_of(), [late, MemoryStore("good")], sealer)
    assert written.complete_locations == ["good"]
    assert MANIFEST_KEY not in late.objects


async def test_all_failing_is_unreachable_and_cleaned_up(sealer: Sealer) -> None:
    stores = [FaultyStore(name, fault=lambda number, key: Unreachable("down") if number > 4 else None) for name in "ab"]
    source = source_of()
    with pytest.raises(Unreachable, match=r"no backup location is left\. a: down.*b: down"):
        await write(source, list(stores), sealer)
    assert [store.objects for store in stores] == [{}, {}]
    assert source.streams[0].closed


async def test_a_manifest_whose_answer_was_lost_still_counts(sealer: Sealer, opener: Opener) -> None:
    class LosesTheManifestsAnswer(MemoryStore):
        async def put(self, key: str, body: bytes, **options: object) -> str:
            etag = await super().put(key, body, **options)  # type: ignore[arg-type]
            if key == MANIFEST_KEY:
                raise Unreachable("connection reset")
            return etag

    store, source = LosesTheManifestsAnswer("a"), source_of()
    assert (await write(source, [store], sealer)).complete_locations == ["a"]
    assert await read_all(store, opener) == plain(source)


class _TakesAndDoesNotTell(MemoryStore):
    """Every first put of a key below ``prefix`` arrives without an answer, and nothing can be read back."""

    def __init__(self, name: str, prefix: str) -> None:
        super().__init__(name)
        self._prefix = prefix

    async def put(self, key: str, body: bytes, **options: object) -> str:
        new = key not in self.objects
        etag = await super().put(key, body, **options)  # type: ignore[arg-type]
        if new and key.startswith(self._prefix):
            raise Unreachable("the connection was reset")
        return etag

    async def get(self, key: str) -> tuple[bytes, str]:
        if key.startswith(self._prefix) and key in self.objects:
            raise Unreachable("slow down")
        return await super().get(key)


@pytest.mark.parametrize("prefix", ["shop/", MANIFEST_KEY])
async def test_a_location_that_took_an_object_and_cannot_be_read_back_is_dropped(
    sealer: Sealer, opener: Opener, prefix: str
) -> None:
    good, silent, source = MemoryStore("a"), _TakesAndDoesNotTell("b", prefix), source_of()
    written = await write(source, [good, silent], sealer)
    assert written.complete_locations == ["a"]
    assert "b" in written.dropped
    assert "it is unknown what it holds as shop/" in written.dropped["b"]
    assert await read_all(good, opener) == plain(source)


async def test_a_location_that_hangs_when_it_is_asked_for_the_manifest_is_dropped(sealer: Sealer) -> None:
    class Hangs(_TakesAndDoesNotTell):
        async def get(self, key: str) -> tuple[bytes, str]:
            if key in self.objects:
                await asyncio.Event().wait()
            return await MemoryStore.get(self, key)

    async with asyncio.timeout(10):
        written = await write(source_of(), [MemoryStore("a"), Hangs("b", MANIFEST_KEY)], sealer)
    assert written.complete_locations == ["a"]
    assert "b did not give it back within 0.3 s" in written.dropped["b"]


async def test_cancelled_in_mid_upload_leaves_nothing(sealer: Sealer) -> None:
    hanging, other = FaultyStore("hanging", hang=lambda number, key: number == 6), MemoryStore("other")
    source = source_of(chunks=30)
    writing = asyncio.ensure_future(
        write(source, [hanging, other], sealer, budget=WriteBudget(chunk_bytes=CHUNK, window=4, uploads=2))
    )
    await hanging.hanging.wait()
    assert hanging.objects
    writing.cancel()
    asyncio.get_running_loop().call_later(0.2, hanging.release.set)  # the upload on its way arrives after the cancel
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (hanging.objects, other.objects) == ({}, {})
    assert source.streams[0].closed


async def test_cancelled_again_while_cleaning_up_still_leaves_nothing(sealer: Sealer) -> None:
    store = FaultyStore("a", hang=lambda number, key: number == 6)
    writing = asyncio.ensure_future(
        write(source_of(chunks=30), [store], sealer, budget=WriteBudget(chunk_bytes=CHUNK, window=4, uploads=2))
    )
    await store.hanging.wait()
    writing.cancel()
    await asyncio.sleep(0.05)
    writing.cancel()
    await asyncio.sleep(0.05)
    assert not writing.done()
    store.release.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert store.objects == {}


async def test_cancelled_while_the_source_stalls_leaves_nothing(sealer: Sealer) -> None:
    store, source = MemoryStore("a"), source_of(stall=asyncio.Event())
    writing = asyncio.ensure_future(write(source, [store], sealer))
    async with asyncio.timeout(60):
        while len(store.objects) < 8:  # the window is full or the stream at its end
            await asyncio.sleep(0.01)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert store.objects == {}
    assert source.streams[0].closed


async def test_cleaning_up_is_bounded_where_a_location_hangs(sealer: Sealer) -> None:
    """The other location is clean although this one never answers again."""

    class NeverDeletes(MemoryStore):
        async def delete(self, keys: object) -> None:
            await asyncio.Event().wait()

    hanging, good = NeverDeletes("hanging"), MemoryStore("good")
    budget = WriteBudget(chunk_bytes=CHUNK, cleanup_seconds=0.5)
    with pytest.raises(SourceFailed):
        await write(source_of(failure=SourceFailed("gone")), [hanging, good], sealer, budget=budget)
    assert good.objects == {}
    assert MANIFEST_KEY not in hanging.objects

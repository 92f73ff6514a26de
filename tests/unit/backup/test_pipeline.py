"""Writing a recovery point: to all locations, whatever one of them does, and never half of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.backup.documents import read_manifest
from recovery.backup.layout import manifest_key
from recovery.backup.pipeline import TransferProgress, WrittenPoint, write_point
from recovery.backup.reader import open_point
from recovery.backup.sealing import Opener, SealedChunk, Sealer
from recovery.backup.upload import WriteBudget
from recovery.errors import Contended, Refused, SourceFailed, Unreachable
from recovery.ports.object_store import ObjectInfo
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.fakes.points import FakeSource, FakeStream, identity, signer, verifier

CHUNK = 1000
QUICK = WriteBudget(
    chunk_bytes=CHUNK, window=4, uploads=2, object_seconds=0.6, attempt_seconds=0.3, patience_seconds=0.3,
    cleanup_seconds=4.0,
)  # fmt: skip
MANIFEST_KEY = manifest_key("shop", identity().point_id)


def _bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def _source(chunks: int = 12, **fields: object) -> FakeSource:
    """``base.tar`` in buffers that do not fit the chunk size, an empty artefact, and a small one."""
    data = _bytes(chunks * CHUNK - 10)
    buffers = [data[start : start + 333] for start in range(0, len(data), 333)]
    return FakeSource({"base.tar": buffers, "empty": [], "backup_manifest": [b"{}"]}, **fields)  # type: ignore[arg-type]


async def _write(source: FakeSource, stores: list[MemoryStore], sealer: Sealer, **options: object) -> WrittenPoint:
    settings_ = {"identity": identity(), "signer": signer(), "budget": QUICK, **options}
    return await write_point(source, stores=stores, sealer=sealer, **settings_)  # type: ignore[arg-type]


async def _read_all(store: MemoryStore, opener: Opener) -> dict[str, bytes]:
    """What the stored manifest opens to, from this one location."""
    signed = read_manifest(store.objects[MANIFEST_KEY], verifier(), group="shop", point_id=identity().point_id)
    reader = open_point(store, signed.manifest, opener)
    names = [artefact.name for artefact in signed.manifest.artefacts]
    return {name: b"".join([piece async for piece in reader.stream(name)]) for name in names}


def _plain(source: FakeSource) -> dict[str, bytes]:
    return {name: b"".join(buffers) for name, buffers in source.contents.items()}


async def test_every_location_gets_the_whole_point(sealer: Sealer, opener: Opener) -> None:
    source, stores = _source(), [MemoryStore("a"), MemoryStore("b")]
    written = await _write(source, stores, sealer)
    assert written.complete_locations == ["a", "b"]
    assert written.dropped == {}
    assert stores[0].objects == stores[1].objects
    for store in stores:
        assert await _read_all(store, opener) == _plain(source)
    manifest = written.manifest
    assert [len(artefact.objects) for artefact in manifest.artefacts] == [12, 1, 1]
    assert manifest.plain_bytes == 12 * CHUNK - 10 + 2
    assert (manifest.group, manifest.attempt, manifest.epoch, manifest.source_region) == ("shop", 1, 3, "region-a")
    assert manifest.recipients == sealer.recipients
    assert set(manifest.tools) == {"recovery-plans", "pyrage", "zstandard"}
    assert set(stores[0].objects) == {MANIFEST_KEY} | {e.key for a in manifest.artefacts for e in a.objects}
    assert all(stream.closed for stream in source.streams)


@given(st.integers(0, 5 * CHUNK), st.integers(1, 2 * CHUNK), st.integers(0, 1000))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_stream_comes_back_byte_for_byte(
    sealer: Sealer, opener: Opener, size: int, buffer: int, seed: int
) -> None:
    data = _bytes(size, seed)
    store = MemoryStore("a")
    source = FakeSource({"x": [data[start : start + buffer] for start in range(0, size, buffer)]})
    await _write(source, [store], sealer)
    assert await _read_all(store, opener) == {"x": data}


async def test_the_manifest_comes_last_of_all(sealer: Sealer) -> None:
    order: list[str] = []
    store = FaultyStore("a", fault=lambda number, key: order.append(key))
    await _write(_source(), [store], sealer)
    assert order[-1] == MANIFEST_KEY
    assert order.count(MANIFEST_KEY) == 1


async def test_progress_tells_bytes_speed_and_locations(sealer: Sealer) -> None:
    seen: list[TransferProgress] = []
    written = await _write(_source(expected_bytes=12_000), [MemoryStore("a")], sealer, progress=seen.append)
    last = seen[-1]
    assert last.plain_bytes == written.manifest.plain_bytes
    assert last.stored_bytes == written.manifest.stored_bytes == last.locations["a"]
    assert (last.expected_bytes, last.objects) == (12_000, 14)
    assert last.bytes_per_second > 0
    assert [entry.plain_bytes for entry in seen] == sorted(entry.plain_bytes for entry in seen)


async def test_a_check_that_raises_prevents_the_point(sealer: Sealer) -> None:
    store, source = MemoryStore("a"), _source()

    async def epoch_changed() -> None:
        assert source.finished
        assert store.objects
        raise Refused("the epoch of shop is 4 now")

    with pytest.raises(Refused, match="epoch"):
        await _write(source, [store], sealer, check=epoch_changed)
    assert store.objects == {}


async def test_the_sources_own_words_reach_the_caller_and_nothing_stays(sealer: Sealer) -> None:
    stores = [MemoryStore("a"), MemoryStore("b")]
    source = _source(failure=SourceFailed("FATAL: terminating connection due to administrator command"))
    with pytest.raises(SourceFailed, match="administrator command"):
        await _write(source, stores, sealer)
    assert [store.objects for store in stores] == [{}, {}]
    assert source.streams[0].closed


@pytest.mark.parametrize("at", [1, 5, 14])
async def test_one_failing_write_is_tried_again(sealer: Sealer, opener: Opener, at: int) -> None:
    shaky = FaultyStore("shaky", fault=lambda number, key: Unreachable("reset") if number == at else None)
    source = _source()
    written = await _write(source, [MemoryStore("a"), shaky], sealer)
    assert written.complete_locations == ["a", "shaky"]
    assert await _read_all(shaky, opener) == _plain(source)


@pytest.mark.parametrize("error", [Unreachable("no route"), Refused("AccessDenied")])
@pytest.mark.parametrize("at", [1, 6])
async def test_a_location_that_goes_on_failing_is_dropped_and_the_other_finishes(
    sealer: Sealer, opener: Opener, error: Unreachable | Refused, at: int
) -> None:
    bad = FaultyStore("bad", fault=lambda number, key: error if number >= at else None)
    good, source = MemoryStore("good"), _source()
    written = await _write(source, [bad, good], sealer)
    assert written.complete_locations == ["good"]
    assert str(error) in written.dropped["bad"]
    assert MANIFEST_KEY not in bad.objects
    assert await _read_all(good, opener) == _plain(source)


async def test_a_location_that_hangs_is_dropped(sealer: Sealer) -> None:
    hanging, good = FaultyStore("hanging", hang=lambda number, key: number > 3), MemoryStore("good")
    written = await _write(_source(chunks=30), [hanging, good], sealer)
    assert written.complete_locations == ["good"]
    assert "within" in written.dropped["hanging"] or "slower" in written.dropped["hanging"]
    assert MANIFEST_KEY not in hanging.objects


async def test_a_slow_location_does_not_hold_the_others_up_for_ever(sealer: Sealer) -> None:
    slow, good = FaultyStore("slow", pace=0.25), MemoryStore("good")
    began = asyncio.get_running_loop().time()
    written = await _write(_source(chunks=100), [slow, good], sealer)
    assert written.complete_locations == ["good"]
    assert "slower than the other locations" in written.dropped["slow"]
    assert asyncio.get_running_loop().time() - began < 5  # alone the slow one would need 12 s


async def test_locations_that_are_slow_alike_are_all_kept(sealer: Sealer) -> None:
    stores = [FaultyStore(name, pace=0.05) for name in "abc"]
    written = await _write(_source(chunks=40), list(stores), sealer)  # a second, thrice the patience
    assert written.complete_locations == ["a", "b", "c"]


async def test_a_slow_location_that_is_alone_is_waited_for(sealer: Sealer) -> None:
    slow = FaultyStore("slow", pace=0.05)
    assert (await _write(_source(chunks=20), [slow], sealer)).complete_locations == ["slow"]


async def test_refused_at_the_manifest_only_is_dropped_without_one(sealer: Sealer) -> None:
    late = FaultyStore("late", fault=lambda number, key: Refused("no more") if key == MANIFEST_KEY else None)
    written = await _write(_source(), [late, MemoryStore("good")], sealer)
    assert written.complete_locations == ["good"]
    assert MANIFEST_KEY not in late.objects


async def test_all_failing_is_unreachable_and_cleaned_up(sealer: Sealer) -> None:
    stores = [FaultyStore(name, fault=lambda number, key: Unreachable("down") if number > 4 else None) for name in "ab"]
    source = _source()
    with pytest.raises(Unreachable, match=r"no backup location is left\. a: down.*b: down"):
        await _write(source, list(stores), sealer)
    assert [store.objects for store in stores] == [{}, {}]
    assert source.streams[0].closed


async def test_a_manifest_whose_answer_was_lost_still_counts(sealer: Sealer, opener: Opener) -> None:
    class LosesTheManifestsAnswer(MemoryStore):
        async def put(self, key: str, body: bytes, **options: object) -> str:
            etag = await super().put(key, body, **options)  # type: ignore[arg-type]
            if key == MANIFEST_KEY:
                raise Unreachable("connection reset")
            return etag

    store, source = LosesTheManifestsAnswer("a"), _source()
    assert (await _write(source, [store], sealer)).complete_locations == ["a"]
    assert await _read_all(store, opener) == _plain(source)


async def test_cancelled_in_mid_upload_leaves_nothing(sealer: Sealer) -> None:
    hanging, other = FaultyStore("hanging", hang=lambda number, key: number == 6), MemoryStore("other")
    source = _source(chunks=30)
    writing = asyncio.ensure_future(
        _write(source, [hanging, other], sealer, budget=WriteBudget(chunk_bytes=CHUNK, window=4, uploads=2))
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
        _write(_source(chunks=30), [store], sealer, budget=WriteBudget(chunk_bytes=CHUNK, window=4, uploads=2))
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
    store, source = MemoryStore("a"), _source(stall=asyncio.Event())
    writing = asyncio.ensure_future(_write(source, [store], sealer))
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
        await _write(_source(failure=SourceFailed("gone")), [hanging, good], sealer, budget=budget)
    assert good.objects == {}
    assert MANIFEST_KEY not in hanging.objects


async def test_of_two_racing_attempts_exactly_one_wins_and_the_loser_cleans_up(sealer: Sealer, opener: Opener) -> None:
    for seed in range(6):
        stores = [FaultyStore(name, pace=0.001 * (seed % 3)) for name in "ab"]
        source = _source()
        outcomes = await asyncio.gather(
            _write(_source(), list(stores), sealer, identity=identity(1)),
            _write(_source(), list(reversed(stores)), sealer, identity=identity(2)),
            return_exceptions=True,
        )
        winners = [outcome for outcome in outcomes if isinstance(outcome, WrittenPoint)]
        assert len(winners) == 1
        assert sum(isinstance(outcome, Contended) for outcome in outcomes) == 1
        for store in stores:
            named = {entry.key for artefact in winners[0].manifest.artefacts for entry in artefact.objects}
            assert set(store.objects) == {MANIFEST_KEY, *named}
            assert await _read_all(store, opener) == _plain(source)


async def test_attempts_that_share_only_their_second_location_still_end_with_one_winner(sealer: Sealer) -> None:
    """The first loses "a" on its way, so that it wins "b" while the second wins "a": the second has to withdraw."""
    a, b = MemoryStore("a"), MemoryStore("b")
    gate = asyncio.Event()

    class Blind(FaultyStore):
        """The second attempt's view of ``b``: it sees the manifest only when it wants to put its own."""

        async def get(self, key: str) -> tuple[bytes, str]:
            return await (b if gate.is_set() else MemoryStore()).get(key)

        async def put(self, key: str, body: bytes, **options: object) -> str:
            if key == MANIFEST_KEY:
                gate.set()
            return await b.put(key, body, **options)  # type: ignore[arg-type]

        def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            return b.list(prefix)

        async def delete(self, keys: object) -> None:
            await b.delete(keys)  # type: ignore[arg-type]

    first = await _write(_source(), [b], sealer, identity=identity(1))
    with pytest.raises(Contended, match="another attempt"):
        await _write(_source(), [a, Blind("b")], sealer, identity=identity(2))
    assert a.objects == {}
    assert set(b.objects) == {MANIFEST_KEY, *(e.key for x in first.manifest.artefacts for e in x.objects)}


async def test_a_point_that_exists_is_not_touched_by_a_late_attempt(sealer: Sealer) -> None:
    store = MemoryStore("a")
    await _write(_source(), [store], sealer)
    before = dict(store.objects)
    late = _source()
    with pytest.raises(Contended, match="another attempt"):
        await _write(late, [store], sealer, identity=identity(2))
    assert store.objects == before
    assert late.streams == []  # nothing was read from the source for nothing


async def test_objects_that_somebody_removed_meanwhile_prevent_the_manifest(sealer: Sealer) -> None:
    written: list[str] = []
    store = FaultyStore("a", fault=lambda number, key: written.append(key))

    async def taken_for_dead() -> None:
        await store.delete([next(key for key in store.objects if "base.tar.000003" in key)])

    with pytest.raises(Unreachable, match=r"missing there.*base\.tar\.000003"):
        await _write(_source(), [store], sealer, check=taken_for_dead)
    assert MANIFEST_KEY not in written
    assert store.objects == {}


async def test_objects_that_vanish_just_before_the_manifest_withdraw_it(sealer: Sealer) -> None:
    class Races(MemoryStore):
        async def put(self, key: str, body: bytes, **options: object) -> str:
            if key == MANIFEST_KEY:
                await self.delete([next(key for key in self.objects if "base.tar.000003" in key)])
            return await super().put(key, body, **options)  # type: ignore[arg-type]

    store, good = Races("a"), MemoryStore("good")
    written = await _write(_source(), [store, good], sealer)
    assert written.complete_locations == ["good"]
    assert MANIFEST_KEY not in store.objects


async def test_memory_is_bounded_by_the_window(sealer: Sealer) -> None:
    """The source is read no faster than the slowest waiting for it: at most window + 1 chunks ahead."""
    produced = stored = 0
    ahead = 0

    class Counting(MemoryStore):
        async def put(self, key: str, body: bytes, **options: object) -> str:
            nonlocal stored
            await asyncio.sleep(0.002)
            stored += 1
            return await super().put(key, body, **options)  # type: ignore[arg-type]

    def buffers() -> Iterator[bytes]:
        nonlocal produced, ahead
        for _ in range(60):
            produced += 1
            ahead = max(ahead, produced - stored)
            yield b"x" * CHUNK

    await _write(FakeSource({"x": buffers()}), [Counting("a")], sealer)
    assert stored == 61
    assert ahead <= QUICK.window + 2


async def test_a_sealing_failure_fails_the_backup_and_cleans_up() -> None:
    class Broken:
        recipients = ("age1x",)
        count = 0

        async def seal(self, chunk: bytes, level: int = 1) -> SealedChunk:
            self.count += 1
            if self.count > 3:
                raise Unreachable("a sealing process ended unexpectedly (killed by signal 9)")
            return SealedChunk(chunk, "", len(chunk), len(chunk))

    class NoHash(MemoryStore):
        async def put(self, key: str, body: bytes, **options: object) -> str:
            return await super().put(key, body)

    store = NoHash("a")
    with pytest.raises(Unreachable, match="signal 9"):
        await _write(_source(), [store], Broken())  # type: ignore[arg-type]
    assert store.objects == {}


async def test_artefacts_are_read_at_the_same_time_where_their_source_allows_it(sealer: Sealer, opener: Opener) -> None:
    """Each waits until another one has begun, and the manifest keeps the source's order."""
    begun: list[str] = []

    class Waiting(FakeStream):
        async def chunks(self) -> AsyncIterator[bytes]:
            begun.append(self.name)
            while len(begun) < 2:
                await asyncio.sleep(0.001)
            yield self.name.encode()

    class Several(FakeSource):
        async def artefacts(self) -> AsyncIterator[FakeStream]:
            for name in self.contents:
                yield Waiting(name, [])

    names = ["one", "two", "three", "four"]
    store = MemoryStore("a")
    async with asyncio.timeout(20):
        written = await _write(Several(dict.fromkeys(names, ())), [store], sealer, at_once=2)
    assert [artefact.name for artefact in written.manifest.artefacts] == names
    assert await _read_all(store, opener) == {name: name.encode() for name in names}


async def test_one_failing_artefact_ends_those_beside_it(sealer: Sealer) -> None:
    stall = asyncio.Event()
    made: list[FakeStream] = []

    class Several(FakeSource):
        async def artefacts(self) -> AsyncIterator[FakeStream]:
            made.append(FakeStream("stuck", [b"x"], stall=stall))
            yield made[0]
            yield FakeStream("bad", [b"x"], SourceFailed("the server ended it"))

    store = MemoryStore("a")
    async with asyncio.timeout(20):
        with pytest.raises(SourceFailed, match="the server ended it"):
            await _write(Several({}), [store], sealer, at_once=2)
    assert made[0].closed
    assert store.objects == {}

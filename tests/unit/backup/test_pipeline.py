"""Writing a recovery point: to all locations, whatever one of them does, and never half of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recovery.backup.pipeline import TransferProgress, WrittenPoint
from recovery.backup.sealing import Opener, SealedChunk, Sealer
from recovery.errors import Contended, Refused, SourceFailed, Unreachable
from recovery.ports.object_store import ObjectInfo
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.fakes.points import FakeSource, FakeStream, identity
from tests.unit.backup.writing import CHUNK, MANIFEST_KEY, QUICK, noise, plain, read_all, source_of, write


async def test_every_location_gets_the_whole_point(sealer: Sealer, opener: Opener) -> None:
    source, stores = source_of(), [MemoryStore("a"), MemoryStore("b")]
    written = await write(source, stores, sealer)
    assert written.complete_locations == ["a", "b"]
    assert written.dropped == {}
    assert stores[0].objects == stores[1].objects
    for store in stores:
        assert await read_all(store, opener) == plain(source)
    manifest = written.manifest
    assert [len(artefact.objects) for artefact in manifest.artefacts] == [12, 1, 1]
    assert manifest.plain_bytes == 12 * CHUNK - 10 + 2
    assert (manifest.group, manifest.attempt, manifest.epoch, manifest.source_region) == ("shop", 1, 3, "region-a")
    assert manifest.recipients == sealer.recipients
    assert set(manifest.tools) == {"recovery-plans", "cryptography", "zstandard"}
    assert set(stores[0].objects) == {MANIFEST_KEY} | {e.key for a in manifest.artefacts for e in a.objects}
    assert all(stream.closed for stream in source.streams)


@given(st.integers(0, 5 * CHUNK), st.integers(1, 2 * CHUNK), st.integers(0, 1000))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_stream_comes_back_byte_for_byte(
    sealer: Sealer, opener: Opener, size: int, buffer: int, seed: int
) -> None:
    data = noise(size, seed)
    store = MemoryStore("a")
    source = FakeSource({"x": [data[start : start + buffer] for start in range(0, size, buffer)]})
    await write(source, [store], sealer)
    assert await read_all(store, opener) == {"x": data}


async def test_the_manifest_comes_last_of_all(sealer: Sealer) -> None:
    order: list[str] = []
    store = FaultyStore("a", fault=lambda number, key: order.append(key))
    await write(source_of(), [store], sealer)
    assert order[-1] == MANIFEST_KEY
    assert order.count(MANIFEST_KEY) == 1


async def test_progress_tells_bytes_speed_and_locations(sealer: Sealer) -> None:
    seen: list[TransferProgress] = []
    written = await write(source_of(expected_bytes=12_000), [MemoryStore("a")], sealer, progress=seen.append)
    last = seen[-1]
    assert last.plain_bytes == written.manifest.plain_bytes
    assert last.stored_bytes == written.manifest.stored_bytes == last.locations["a"]
    assert (last.expected_bytes, last.objects) == (12_000, 14)
    assert last.bytes_per_second > 0
    assert [entry.plain_bytes for entry in seen] == sorted(entry.plain_bytes for entry in seen)


async def test_a_check_that_raises_prevents_the_point(sealer: Sealer) -> None:
    store, source = MemoryStore("a"), source_of()

    async def epoch_changed() -> None:
        assert source.finished
        assert store.objects
        raise Refused("the epoch of shop is 4 now")

    with pytest.raises(Refused, match="epoch"):
        await write(source, [store], sealer, check=epoch_changed)
    assert store.objects == {}


async def test_a_backup_ends_soon_after_it_is_refused(sealer: Sealer) -> None:
    """Not after hours, at its manifest. A witness that does not answer meanwhile ends nothing."""
    store, source = MemoryStore("a"), source_of(stall=asyncio.Event())
    answers = iter([Unreachable("the witness does not answer"), Refused("the epoch of shop is 4 now")])

    async def asked() -> None:
        raise next(answers)

    async with asyncio.timeout(5):
        with pytest.raises(Refused, match="epoch"):
            await write(source, [store], sealer, check=asked, budget=replace(QUICK, check_seconds=0.05))
    assert not source.finished and store.objects == {}


async def test_the_sources_own_words_reach_the_caller_and_nothing_stays(sealer: Sealer) -> None:
    stores = [MemoryStore("a"), MemoryStore("b")]
    source = source_of(failure=SourceFailed("FATAL: terminating connection due to administrator command"))
    with pytest.raises(SourceFailed, match="administrator command"):
        await write(source, stores, sealer)
    assert [store.objects for store in stores] == [{}, {}]
    assert source.streams[0].closed


async def test_of_two_racing_attempts_exactly_one_wins_and_the_loser_cleans_up(sealer: Sealer, opener: Opener) -> None:
    for seed in range(6):
        stores = [FaultyStore(name, pace=0.001 * (seed % 3)) for name in "ab"]
        source = source_of()
        outcomes = await asyncio.gather(
            write(source_of(), list(stores), sealer, identity=identity(1)),
            write(source_of(), list(reversed(stores)), sealer, identity=identity(2)),
            return_exceptions=True,
        )
        winners = [outcome for outcome in outcomes if isinstance(outcome, WrittenPoint)]
        assert len(winners) == 1
        assert sum(isinstance(outcome, Contended) for outcome in outcomes) == 1
        for store in stores:
            named = {entry.key for artefact in winners[0].manifest.artefacts for entry in artefact.objects}
            assert set(store.objects) == {MANIFEST_KEY, *named}
            assert await read_all(store, opener) == plain(source)


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

    first = await write(source_of(), [b], sealer, identity=identity(1))
    with pytest.raises(Contended, match="another attempt"):
        await write(source_of(), [a, Blind("b")], sealer, identity=identity(2))
    assert a.objects == {}
    assert set(b.objects) == {MANIFEST_KEY, *(e.key for x in first.manifest.artefacts for e in x.objects)}


async def test_a_point_that_exists_is_not_touched_by_a_late_attempt(sealer: Sealer) -> None:
    store = MemoryStore("a")
    await write(source_of(), [store], sealer)
    before = dict(store.objects)
    late = source_of()
    with pytest.raises(Contended, match="another attempt"):
        await write(late, [store], sealer, identity=identity(2))
    assert store.objects == before
    assert late.streams == []  # nothing was read from the source for nothing


async def test_objects_that_somebody_removed_meanwhile_prevent_the_manifest(sealer: Sealer) -> None:
    written: list[str] = []
    store = FaultyStore("a", fault=lambda number, key: written.append(key))

    async def taken_for_dead() -> None:
        await store.delete([next(key for key in store.objects if "base.tar.000003" in key)])

    with pytest.raises(Unreachable, match=r"missing there.*base\.tar\.000003"):
        await write(source_of(), [store], sealer, check=taken_for_dead)
    assert MANIFEST_KEY not in written
    assert store.objects == {}


async def test_objects_that_vanish_just_before_the_manifest_withdraw_it(sealer: Sealer) -> None:
    class Races(MemoryStore):
        async def put(self, key: str, body: bytes, **options: object) -> str:
            if key == MANIFEST_KEY:
                await self.delete([next(key for key in self.objects if "base.tar.000003" in key)])
            return await super().put(key, body, **options)  # type: ignore[arg-type]

    store, good = Races("a"), MemoryStore("good")
    written = await write(source_of(), [store, good], sealer)
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

    await write(FakeSource({"x": buffers()}), [Counting("a")], sealer)
    assert stored == 61
    assert ahead <= QUICK.window + 2


async def test_a_sealing_failure_fails_the_backup_and_cleans_up() -> None:
    class Broken:
        recipients = ("age1x",)
        count = 0

        async def seal(self, chunk: bytes, level: int = 1) -> SealedChunk:
            self.count += 1
            if self.count > 3:
                raise Unreachable("this sealer was closed")
            return SealedChunk(chunk, "", len(chunk), len(chunk))

    class NoHash(MemoryStore):
        async def put(self, key: str, body: bytes, **options: object) -> str:
            return await super().put(key, body)

    store = NoHash("a")
    with pytest.raises(Unreachable, match="was closed"):
        await write(source_of(), [store], Broken())  # type: ignore[arg-type]
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
        written = await write(Several(dict.fromkeys(names, ())), [store], sealer, at_once=2)
    assert [artefact.name for artefact in written.manifest.artefacts] == names
    assert await read_all(store, opener) == {name: name.encode() for name in names}


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
            await write(Several({}), [store], sealer, at_once=2)
    assert made[0].closed
    assert store.objects == {}

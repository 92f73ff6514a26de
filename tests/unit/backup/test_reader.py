"""Reading a point: in order, checked before it is decrypted, from another location where one is damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from recovery.backup import reader
from recovery.backup.reader import check_key, open_point, verify_objects
from recovery.backup.sealing import Opener, generate_age_key
from recovery.domain.recovery_point import Manifest
from recovery.errors import BadInput, Corrupt, NotFound, Unreachable, WrongKey
from recovery.ports.object_store import ObjectStore
from tests.fakes.object_store import MemoryStore
from tests.unit.backup.written import DATA, flip, object_key


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PAUSE", 0.001)


async def _read(manifest: Manifest, opener: Opener, stores: ObjectStore | Sequence[ObjectStore]) -> bytes:
    return b"".join([piece async for piece in open_point(stores, manifest, opener).stream("base.tar")])


async def test_the_stream_comes_back_in_order_with_progress(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener
) -> None:
    seen: list[tuple[int, int]] = []
    opened = open_point(stores[0], manifest, opener)
    pieces = [piece async for piece in opened.stream("base.tar", lambda done, total: seen.append((done, total)))]
    assert b"".join(pieces) == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert seen == sorted(seen)


async def test_an_unknown_artefact_is_answered_with_the_known_ones(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener
) -> None:
    with pytest.raises(NotFound, match=r"it has base\.tar, backup_manifest"):
        await anext(aiter(open_point(stores[0], manifest, opener).stream("shop.dump")))


@pytest.mark.parametrize("damage", ["flip", "missing", "short"])
async def test_a_validation_reads_exactly_one_location_and_finds_the_damage(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener, damage: str
) -> None:
    key = object_key(manifest, 4)
    match damage:
        case "flip":
            flip(stores[0], key)
        case "missing":
            await stores[0].delete([key])
        case _:
            stores[0].objects[key] = stores[0].objects[key][:-1]
    with pytest.raises(Corrupt, match=r"base\.tar\.000004"):
        await _read(manifest, opener, stores[0])
    assert await _read(manifest, opener, stores[1]) == DATA
    assert await _read(manifest, opener, list(stores)) == DATA  # a restore takes it from the other one


async def test_damage_at_both_locations_names_both(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener
) -> None:
    flip(stores[0], object_key(manifest, 2))
    await stores[1].delete([object_key(manifest, 2)])
    with pytest.raises(Corrupt, match=r"a: .*SHA-256.*missing at b"):
        await _read(manifest, opener, list(stores))


async def test_damage_here_and_silence_there_is_worth_another_try(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener
) -> None:
    class Silent(MemoryStore):
        async def get(self, key: str) -> tuple[bytes, str]:
            raise Unreachable("b does not answer")

    flip(stores[0], object_key(manifest, 2))
    with pytest.raises(Unreachable):
        await _read(manifest, opener, [stores[0], Silent("b")])


async def test_a_location_that_went_silent_is_asked_last_from_then_on(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener
) -> None:
    asked = 0

    class Silent(MemoryStore):
        async def get(self, key: str) -> tuple[bytes, str]:
            nonlocal asked
            asked += 1
            raise Unreachable("frozen")

    assert await _read(manifest, opener, [Silent("frozen"), stores[1]]) == DATA
    assert asked <= reader.PARALLEL  # those that were on their way when the first one failed


async def test_a_frozen_location_costs_one_short_wait(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SHORT_SECONDS", 0.1)

    class Frozen(MemoryStore):
        async def get(self, key: str) -> tuple[bytes, str]:
            return await asyncio.Event().wait()  # type: ignore[return-value]

    async with asyncio.timeout(30):  # one of 60 s would be too long
        assert await _read(manifest, opener, [Frozen("frozen"), stores[1]]) == DATA
    monkeypatch.setattr(reader, "OBJECT_SECONDS", 0.05)
    with pytest.raises(Unreachable, match="frozen did not deliver"):
        await _read(manifest, opener, Frozen("frozen"))
    with pytest.raises(Unreachable, match="frozen did not deliver"):
        await verify_objects(Frozen("frozen"), manifest)


async def test_a_short_silence_is_waited_out(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener
) -> None:
    class Shaky(MemoryStore):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.asked: list[str] = []

        async def get(self, key: str) -> tuple[bytes, str]:
            self.asked.append(key)
            if self.asked.count(key) % 3:
                raise Unreachable("reset")
            return await stores[0].get(key)

    assert await _read(manifest, opener, Shaky("shaky")) == DATA
    assert all(result.passed for result in await verify_objects(Shaky("shaky"), manifest))


async def test_reading_ahead_is_bounded_and_ends_with_the_reader(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener
) -> None:
    class Counting(MemoryStore):
        begun = 0

        async def get(self, key: str) -> tuple[bytes, str]:
            self.begun += 1
            return await stores[0].get(key)

    store = Counting("a")
    stream = open_point(store, manifest, opener, parallel=3).stream("base.tar")
    await anext(stream)
    await asyncio.sleep(0.05)
    assert store.begun <= 4
    assert isinstance(stream, AsyncGenerator)
    await stream.aclose()
    await asyncio.sleep(0.05)
    assert store.begun <= 4


async def test_no_location_at_all_is_said(manifest: Manifest, opener: Opener) -> None:
    with pytest.raises(BadInput, match="at least one location"):
        open_point([], manifest, opener)


async def test_a_wrong_key_is_said_without_any_download(manifest: Manifest) -> None:
    other = generate_age_key()

    class NoDownload(MemoryStore):
        async def get(self, key: str) -> tuple[bytes, str]:
            raise AssertionError("downloaded although the key cannot fit")

    async with Opener([other.secret], threads=1) as opener:
        with pytest.raises(WrongKey, match=other.public) as caught:
            await check_key(manifest, opener, NoDownload("a"))
    assert manifest.recipients[0] in str(caught.value)


async def test_the_key_check_opens_only_the_smallest_object(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener
) -> None:
    asked: list[str] = []

    class Recording(MemoryStore):
        async def get(self, key: str) -> tuple[bytes, str]:
            asked.append(key)
            return await stores[0].get(key)

    await check_key(manifest, opener, Recording("a"))
    entries = [entry for artefact in manifest.artefacts for entry in artefact.objects]
    assert asked == [min(entries, key=lambda entry: entry.size).key]


async def test_a_manifest_that_claims_our_key_is_still_put_to_the_test(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    other = generate_age_key()
    claimed = manifest.model_copy(update={"recipients": [other.public]})
    async with Opener([other.secret], threads=1) as opener:
        with pytest.raises(WrongKey):
            await check_key(claimed, opener, stores[0])
        with pytest.raises(WrongKey):
            await _read(manifest, opener, list(stores))


async def test_objects_are_verified_without_a_key(stores: tuple[MemoryStore, MemoryStore], manifest: Manifest) -> None:
    seen: list[tuple[int, int]] = []
    results = await verify_objects(stores[0], manifest, lambda done, total: seen.append((done, total)))
    assert [(result.name, result.passed) for result in results] == [
        ("objects base.tar", True),
        ("objects backup_manifest", True),
    ]
    assert seen[-1] == (manifest.stored_bytes, manifest.stored_bytes)


async def test_every_damaged_object_is_found_without_a_key(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    flip(stores[0], object_key(manifest, 1))
    stores[0].objects[object_key(manifest, 2)] += b"x"
    await stores[0].delete([object_key(manifest, 3)])
    base, other = await verify_objects(stores[0], manifest)
    assert other.passed
    assert not base.passed
    for words in ("3 of 11 objects", "000001.zst.age has another SHA-256", "bytes instead of", "000003.zst.age is mis"):
        assert words in base.detail


async def test_a_silent_location_is_no_verdict(manifest: Manifest) -> None:
    class Silent(MemoryStore):
        async def get(self, key: str) -> tuple[bytes, str]:
            raise Unreachable("down")

    with pytest.raises(Unreachable):
        await verify_objects(Silent("a"), manifest)

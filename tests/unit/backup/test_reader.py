"""Reading a point: in order, checked before it is decrypted, from another location where one is damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from recovery.backup import reader
from recovery.backup.documents import SignedManifest, sign_manifest
from recovery.backup.fill import fill_location
from recovery.backup.layout import manifest_key, verdict_key
from recovery.backup.leftovers import remove_leftovers
from recovery.backup.pipeline import write_point
from recovery.backup.reader import check_key, open_point, verify_objects
from recovery.backup.sealing import Opener, Sealer, generate_age_key
from recovery.backup.upload import WriteBudget
from recovery.domain.recovery_point import Manifest, RecoveryPoint, VerdictState
from recovery.errors import BadInput, Contended, Corrupt, NotFound, Unreachable, WrongKey
from recovery.ports.object_store import ObjectStore
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import FakeSource, identity, signer, verdict_on

DATA = bytes(range(256)) * 40
POINT = identity().point_id
MANIFEST_KEY = manifest_key("shop", POINT)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PAUSE", 0.001)


@pytest.fixture
async def stores() -> tuple[MemoryStore, MemoryStore]:
    return MemoryStore("a"), MemoryStore("b")


@pytest.fixture
async def manifest(stores: tuple[MemoryStore, MemoryStore], sealer: Sealer) -> Manifest:
    source = FakeSource({"base.tar": [DATA], "backup_manifest": [b"{}"]})
    budget = WriteBudget(chunk_bytes=1000)
    return (
        await write_point(source, identity=identity(), stores=stores, sealer=sealer, signer=signer(), budget=budget)
    ).manifest


def _key(manifest: Manifest, number: int) -> str:
    return manifest.artefact("base.tar").objects[number].key


def _flip(store: MemoryStore, key: str, position: int = 300) -> None:
    body = bytearray(store.objects[key])
    body[position] ^= 1
    store.objects[key] = bytes(body)


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
    key = _key(manifest, 4)
    match damage:
        case "flip":
            _flip(stores[0], key)
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
    _flip(stores[0], _key(manifest, 2))
    await stores[1].delete([_key(manifest, 2)])
    with pytest.raises(Corrupt, match=r"a: .*SHA-256.*missing at b"):
        await _read(manifest, opener, list(stores))


async def test_damage_here_and_silence_there_is_worth_another_try(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest, opener: Opener
) -> None:
    class Silent(MemoryStore):
        async def get(self, key: str) -> tuple[bytes, str]:
            raise Unreachable("b does not answer")

    _flip(stores[0], _key(manifest, 2))
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

    async with asyncio.timeout(5):
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

    async with Opener([other.secret], processes=1) as opener:
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
    async with Opener([other.secret], processes=1) as opener:
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
    _flip(stores[0], _key(manifest, 1))
    stores[0].objects[_key(manifest, 2)] += b"x"
    await stores[0].delete([_key(manifest, 3)])
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


def _point(manifest: Manifest) -> RecoveryPoint:
    signed: SignedManifest = sign_manifest(manifest, signer())
    return RecoveryPoint(manifest=manifest, locations=["a"], manifest_sha256=signed.digest)


async def test_a_dropped_location_is_filled_with_the_manifest_last(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    full, partial = stores
    verdict = verdict_on(manifest, "digest", state=VerdictState.VALID)
    await full.put(verdict_key(verdict), b"a signed verdict")
    await partial.delete([MANIFEST_KEY, _key(manifest, 0), _key(manifest, 7)])
    _flip(partial, _key(manifest, 5))
    order: list[str] = []
    put = partial.put

    async def recording(key: str, body: bytes, **options: object) -> str:
        order.append(key)
        return await put(key, body, **options)  # type: ignore[arg-type]

    partial.put = recording  # type: ignore[method-assign]
    assert await fill_location(_point(manifest), full, partial) == 3
    assert partial.objects == full.objects
    assert order[-1] == MANIFEST_KEY
    assert await fill_location(_point(manifest), full, partial) == 0


async def test_an_object_that_the_location_lists_and_cannot_read_is_written_anew(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    class CameBackFromACrash(MemoryStore):
        broken = _key(manifest, 3)

        async def get(self, key: str) -> tuple[bytes, str]:
            if key == self.broken:
                raise Unreachable("InternalError")
            return await super().get(key)

        async def put(self, key: str, body: bytes, **options: object) -> str:
            if key == self.broken:
                self.broken = ""
            return await super().put(key, body, **options)  # type: ignore[arg-type]

    crashed = CameBackFromACrash("c")
    for key, body in stores[0].objects.items():
        if key != MANIFEST_KEY:
            await MemoryStore.put(crashed, key, body)
    assert await fill_location(_point(manifest), stores[0], crashed) == 1
    assert crashed.objects == stores[0].objects


async def test_filling_from_a_damaged_location_stops_before_the_manifest(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    _flip(stores[0], _key(manifest, 5))
    target = MemoryStore("c")
    with pytest.raises(Corrupt, match="000005"):
        await fill_location(_point(manifest), stores[0], target)
    assert MANIFEST_KEY not in target.objects


async def test_filling_never_overwrites_another_point(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    target = MemoryStore("c")
    await target.put(MANIFEST_KEY, b"another one")
    with pytest.raises(Contended):
        await fill_location(_point(manifest), stores[0], target)
    assert target.objects == {MANIFEST_KEY: b"another one"}


async def test_leftovers_of_other_attempts_go_and_the_point_stays(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    before = [dict(store.objects) for store in stores]
    prefix = f"shop/postgres/{POINT}/"
    for store in stores:
        await store.put(f"{prefix}attempt-7-killed/base.tar.000000.zst.age", b"x")
        await store.put(f"{prefix}attempt-8-kept/base.tar.000000.zst.age", b"x")
        await store.put(f"{prefix}verdicts/1.json", b"x")
        await store.put("shop/postgres/another-point/attempt-7-killed/x", b"x")
    assert await remove_leftovers(stores, "shop", POINT, "attempt-8-kept") == {}
    assert await remove_leftovers(stores, "shop", POINT) == {}
    for store, old in zip(stores, before, strict=True):
        assert set(store.objects) == {
            *old, f"{prefix}verdicts/1.json", "shop/postgres/another-point/attempt-7-killed/x"
        }  # fmt: skip


async def test_without_a_manifest_all_attempts_are_leftovers(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    await stores[0].delete([MANIFEST_KEY])
    kept = _key(manifest, 0).rpartition("/")[0].rpartition("/")[2]
    await remove_leftovers([stores[0]], "shop", POINT, kept)
    assert _key(manifest, 0) in stores[0].objects
    await remove_leftovers([stores[0]], "shop", POINT)
    assert stores[0].objects == {}


async def test_a_manifest_that_nobody_can_read_protects_its_point(manifest: Manifest) -> None:
    store = MemoryStore("a")
    for key in (MANIFEST_KEY, f"shop/postgres/{POINT}/attempt-1-x/base.tar.000000.zst.age"):
        await store.put(key, b"not json")
    before = dict(store.objects)
    await remove_leftovers([store], "shop", POINT)
    assert store.objects == before


async def test_a_manifest_that_appears_during_the_removal_goes_with_its_objects(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    """The writer was not dead after all and put its manifest between our look and our deletion."""
    body = stores[0].objects[MANIFEST_KEY]
    delete = stores[0].delete

    async def delete_late(keys: Sequence[str]) -> None:
        await delete(keys)
        if len(keys) > 1:
            await stores[0].put(MANIFEST_KEY, body)

    await stores[0].delete([MANIFEST_KEY])
    stores[0].delete = delete_late  # type: ignore[method-assign]
    await remove_leftovers([stores[0]], "shop", POINT)
    assert stores[0].objects == {}


async def test_a_location_that_cannot_be_cleaned_is_named_and_the_other_is_clean(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    class Silent(MemoryStore):
        async def get(self, key: str) -> tuple[bytes, str]:
            raise Unreachable("down")

    await stores[0].delete([MANIFEST_KEY])
    assert await remove_leftovers([Silent("silent"), stores[0]], "shop", POINT) == {"silent": "down"}
    assert stores[0].objects == {}

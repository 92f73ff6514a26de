"""A location that was dropped is filled from a good one, and what other attempts left is removed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from recovery.backup import reader
from recovery.backup.documents import SignedManifest, sign_manifest
from recovery.backup.fill import fill_location
from recovery.backup.layout import verdict_key
from recovery.backup.leftovers import remove_leftovers
from recovery.domain.recovery_point import Manifest, RecoveryPoint, VerdictState
from recovery.errors import Contended, Corrupt, Unreachable
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import signer, verdict_on
from tests.unit.backup.written import MANIFEST_KEY, POINT, flip, object_key


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PAUSE", 0.001)


def _point(manifest: Manifest) -> RecoveryPoint:
    signed: SignedManifest = sign_manifest(manifest, signer())
    return RecoveryPoint(manifest=manifest, locations=["a"], manifest_sha256=signed.digest)


async def test_a_dropped_location_is_filled_with_the_manifest_last(
    stores: tuple[MemoryStore, MemoryStore], manifest: Manifest
) -> None:
    full, partial = stores
    verdict = verdict_on(manifest, "digest", state=VerdictState.VALID)
    await full.put(verdict_key(verdict), b"a signed verdict")
    await partial.delete([MANIFEST_KEY, object_key(manifest, 0), object_key(manifest, 7)])
    flip(partial, object_key(manifest, 5))
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
        broken = object_key(manifest, 3)

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
    flip(stores[0], object_key(manifest, 5))
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
    kept = object_key(manifest, 0).rpartition("/")[0].rpartition("/")[2]
    await remove_leftovers([stores[0]], "shop", POINT, kept)
    assert object_key(manifest, 0) in stores[0].objects
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
    failed = await remove_leftovers([Silent("silent"), stores[0]], "shop", POINT)
    assert {name: str(error) for name, error in failed.items()} == {"silent": "down"}
    assert stores[0].objects == {}

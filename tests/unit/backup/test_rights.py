"""Backups with credentials that may add objects, and neither overwrite nor delete any (see deploy/s3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from recovery.backup.fill import fill_location
from recovery.backup.leftovers import remove_leftovers
from recovery.backup.once import put_once
from recovery.backup.sealing import Opener, Sealer
from recovery.domain.recovery_point import RecoveryPoint
from recovery.errors import Contended, Refused, SourceFailed, Unreachable
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.fakes.points import identity
from tests.unit.backup.writing import MANIFEST_KEY, plain, read_all, source_of, write


class AddOnly(FaultyStore):
    """What the bucket's policy leaves to a backup worker."""

    async def put(self, key: str, body: bytes, **conditions: Any) -> str:
        if not conditions.get("if_absent"):
            raise Refused(f"{self.name}: PutObject answered AccessDenied")
        return await super().put(key, body, **conditions)

    async def delete(self, keys: Sequence[str]) -> None:
        if keys:
            raise Refused(f"{self.name}: DeleteObjects answered AccessDenied")


async def test_a_point_is_complete(sealer: Sealer, opener: Opener) -> None:
    source, store = source_of(), AddOnly("a")
    written = await write(source, [store], sealer)
    assert (written.complete_locations, written.dropped) == (["a"], {})
    assert await read_all(store, opener) == plain(source)


async def test_an_answer_that_was_lost_is_found_out_by_reading(sealer: Sealer, opener: Opener) -> None:
    """The second try meets the object of the first one."""
    lost: set[str] = set()

    class Forgetful(AddOnly):
        async def put(self, key: str, body: bytes, **conditions: Any) -> str:
            etag = await super().put(key, body, **conditions)
            if key != MANIFEST_KEY and key not in lost:
                lost.add(key)
                raise Unreachable(f"{self.name}: the connection was reset")
            return etag

    source, store = source_of(), Forgetful("a")
    written = await write(source, [store], sealer)
    assert (written.complete_locations, len(lost)) == (["a"], 14)
    assert await read_all(store, opener) == plain(source)


async def test_a_failed_backup_leaves_objects_to_retention_and_no_point(sealer: Sealer) -> None:
    stores = [AddOnly("a"), MemoryStore("b")]
    with pytest.raises(SourceFailed, match="administrator"):
        await write(source_of(failure=SourceFailed("FATAL: by administrator command")), stores, sealer)
    assert MANIFEST_KEY not in stores[0].objects
    assert stores[1].objects == {}, "who may delete does"
    failed = await remove_leftovers(stores, "shop", identity().point_id)
    assert {name: type(error) for name, error in failed.items()} == {"a": Refused}


async def test_nothing_is_written_over_another_object() -> None:
    store = AddOnly("a")
    await put_once(store, "shop/x", b"first")
    await put_once(store, "shop/x", b"first")
    with pytest.raises(Contended):
        await put_once(store, "shop/x", b"second")
    assert store.objects == {"shop/x": b"first"}


async def test_a_location_is_filled_by_adding_what_it_lacks(sealer: Sealer, opener: Opener) -> None:
    source, full, lacking = source_of(), MemoryStore("a"), AddOnly("b")
    written = await write(source, [full], sealer)
    for entry in written.manifest.artefacts[0].objects[:2]:  # an earlier try came as far
        await lacking.put(entry.key, full.objects[entry.key], if_absent=True)
    point = RecoveryPoint(manifest=written.manifest, locations=["a"], manifest_sha256=written.manifest_sha256)
    assert await fill_location(point, full, lacking) == 12
    assert lacking.objects == full.objects
    assert await fill_location(point, full, lacking) == 0


async def test_a_damaged_object_is_not_overwritten_by_who_may_not(sealer: Sealer) -> None:
    full, damaged = MemoryStore("a"), AddOnly("b")
    written = await write(source_of(), [full], sealer)
    first = written.manifest.artefacts[0].objects[0]
    await damaged.put(first.key, b"something else", if_absent=True)
    point = RecoveryPoint(manifest=written.manifest, locations=["a"], manifest_sha256=written.manifest_sha256)
    with pytest.raises(Refused, match="AccessDenied"):
        await fill_location(point, full, damaged)
    assert MANIFEST_KEY not in damaged.objects

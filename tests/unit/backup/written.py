"""A point that was written to two locations in memory, and ways to damage it."""

from __future__ import annotations

from recovery.backup.layout import manifest_key
from recovery.domain.recovery_point import Manifest
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import identity

DATA = bytes(range(256)) * 40
POINT = identity().point_id
MANIFEST_KEY = manifest_key("shop", POINT)


def object_key(manifest: Manifest, number: int) -> str:
    return manifest.artefact("base.tar").objects[number].key


def flip(store: MemoryStore, key: str, position: int = 300) -> None:
    body = bytearray(store.objects[key])
    body[position] ^= 1
    store.objects[key] = bytes(body)

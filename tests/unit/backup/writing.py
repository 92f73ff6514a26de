"""Sources and stores in memory, and a point that is written from one into the others."""

from __future__ import annotations

import random

from recovery.backup.documents import read_manifest
from recovery.backup.layout import manifest_key
from recovery.backup.pipeline import WrittenPoint, write_point
from recovery.backup.reader import open_point
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.upload import WriteBudget
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import FakeSource, identity, signer, verifier

CHUNK = 1000
QUICK = WriteBudget(
    chunk_bytes=CHUNK, window=4, uploads=2, object_seconds=0.6, attempt_seconds=0.3, patience_seconds=0.3,
    cleanup_seconds=4.0,
)  # fmt: skip
MANIFEST_KEY = manifest_key("shop", identity().point_id)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def source_of(chunks: int = 12, **fields: object) -> FakeSource:
    """``base.tar`` in buffers that do not fit the chunk size, an empty artefact, and a small one."""
    data = noise(chunks * CHUNK - 10)
    buffers = [data[start : start + 333] for start in range(0, len(data), 333)]
    return FakeSource({"base.tar": buffers, "empty": [], "backup_manifest": [b"{}"]}, **fields)  # type: ignore[arg-type]


async def write(source: FakeSource, stores: list[MemoryStore], sealer: Sealer, **options: object) -> WrittenPoint:
    settings_ = {"identity": identity(), "signer": signer(), "budget": QUICK, **options}
    return await write_point(source, stores=stores, sealer=sealer, **settings_)  # type: ignore[arg-type]


async def read_all(store: MemoryStore, opener: Opener) -> dict[str, bytes]:
    """What the stored manifest opens to, from this one location."""
    signed = read_manifest(store.objects[MANIFEST_KEY], verifier(), group="shop", point_id=identity().point_id)
    reader = open_point(store, signed.manifest, opener)
    names = [artefact.name for artefact in signed.manifest.artefacts]
    return {name: b"".join([piece async for piece in reader.stream(name)]) for name in names}


def plain(source: FakeSource) -> dict[str, bytes]:
    return {name: b"".join(buffers) for name, buffers in source.contents.items()}

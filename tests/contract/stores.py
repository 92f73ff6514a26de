"""The object stores that the contract holds for: in memory, a folder, and a real S3 server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from lab.state import S3Place
from recovery.adapters.folder import FolderStore
from recovery.adapters.s3 import S3Store
from recovery.ports.object_store import ObjectStore
from tests.fakes.object_store import MemoryStore

KINDS = ("memory", "folder", "s3")
OTHER_S3 = "RECOVERY_TEST_S3"
"""Variable with a ``lab.state.S3Place`` as JSON: a server that runs already."""


def s3_store(place: S3Place, name: str = "s3", **settings: object) -> S3Store:
    """A store under a prefix of its own in the lab's bucket."""
    chosen = {
        "bucket": place.bucket,
        "prefix": f"contract/{secrets.token_hex(6)}",
        "endpoint_url": place.endpoint,
        "access_key": place.access_key,
        "secret_key": place.secret_key,
        "region": place.region,
        **settings,
    }
    return S3Store(name, **chosen)  # type: ignore[arg-type]


@asynccontextmanager
async def opened(kind: str, folder: Path, place: S3Place) -> AsyncIterator[ObjectStore]:
    store: ObjectStore
    match kind:
        case "memory":
            store = MemoryStore()
        case "folder":
            store = FolderStore("folder", folder / "location")
        case _:
            store = s3_store(place)
    try:
        yield store
    finally:
        await store.close()

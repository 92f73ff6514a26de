"""Writing what is never changed: with credentials that may add objects and neither overwrite nor delete any."""

from __future__ import annotations

from recovery.errors import Contended
from recovery.ports.object_store import ObjectStore


async def put_once(store: ObjectStore, key: str, body: bytes, sha256: str | None = None) -> None:
    """Stores the object where there is none. An equal one is taken for an earlier try of ours.

    Raises:
        Contended: another object stands there. And what the store raises.
    """
    try:
        await store.put(key, body, if_absent=True, sha256=sha256)
    except Contended:
        if (await store.get(key))[0] != body:
            raise

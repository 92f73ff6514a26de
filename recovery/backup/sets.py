"""Recovery sets at the locations: ``<group>/sets/<set id>.json``, signed like manifests.

Beside each stands ``<set id>.RESTORE-BY-HAND.md``, for the day on which this software is not at hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from pydantic import ValidationError

from recovery.backup.bounded import for_each
from recovery.backup.by_hand import by_hand
from recovery.backup.layout import safe_name
from recovery.backup.once import put_once
from recovery.backup.signing import Signer, Verifier
from recovery.domain.recovery_point import Manifest
from recovery.domain.recovery_set import RecoverySet
from recovery.errors import Corrupt, NotFound, RecoveryError, Unreachable, WrongKey
from recovery.ports.object_store import ObjectStore
from recovery.ports.recovery_points import ListedSets

FORMAT = 1
SETS = "sets"
PARALLEL_READS = 8
REQUEST_SECONDS = 10.0  # for one small request


def sets_prefix(group: str) -> str:
    return f"{safe_name(group, 'group')}/{SETS}/"


def set_key(group: str, set_id: str) -> str:
    return f"{sets_prefix(group)}{safe_name(set_id, 'recovery set')}.json"


def page_key(group: str, set_id: str) -> str:
    return f"{sets_prefix(group)}{safe_name(set_id, 'recovery set')}.RESTORE-BY-HAND.md"


async def write_set(
    stores: Sequence[ObjectStore], found: RecoverySet, manifests: Sequence[Manifest], signer: Signer
) -> dict[str, str]:
    """The same documents for every attempt. Returns the locations that did not take them, with the reason.

    Args:
        manifests: of the set's members, and of what they build on.

    Raises:
        Unreachable: no location took them.
    """
    page = by_hand(found, manifests).encode()
    body, key = signer.sign(found.model_dump(mode="json")), set_key(found.group, found.set_id)
    failed: dict[str, str] = {}

    async def put(store: ObjectStore) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await put_once(store, page_key(found.group, found.set_id), page)
                await put_once(store, key, body)
        except (RecoveryError, TimeoutError) as error:
            failed[store.name] = _words(error)

    await for_each(stores, put, max(len(stores), 1))
    if len(failed) == len(stores):
        raise Unreachable(f"no location took recovery set {found.set_id}. {'; '.join(failed.values())}")
    return failed


async def list_sets(stores: Sequence[ObjectStore], verifier: Verifier, group: str) -> ListedSets:
    """All sets of the group. Raises Unreachable where no location answers."""
    sets: dict[str, RecoverySet] = {}
    rejected: dict[str, str] = {}
    unreachable: dict[str, str] = {}

    async def read(store: ObjectStore, key: str) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                body, _ = await store.get(key)
            found = _read(body, verifier, group, key)
            sets.setdefault(found.set_id, found)
        except NotFound:
            return  # removed meanwhile
        except (Corrupt, WrongKey) as error:
            rejected[key] = f"{store.name}: {error}"

    async def ask(store: ObjectStore) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                keys = [info.key async for info in store.list(sets_prefix(group)) if info.key.endswith(".json")]
            await for_each(keys, partial(read, store), PARALLEL_READS)
        except (RecoveryError, TimeoutError) as error:
            unreachable[store.name] = _words(error)

    await for_each(stores, ask, max(len(stores), 1))
    if unreachable and len(unreachable) == len(stores):
        raise Unreachable(f"no backup location answers. {'; '.join(unreachable.values())}")
    newest = sorted(sets.values(), key=lambda found: (found.window[1], found.set_id), reverse=True)
    return ListedSets(newest, rejected, unreachable)


async def remove_set(stores: Sequence[ObjectStore], group: str, set_id: str) -> dict[str, str]:
    """Idempotent. Returns the locations that did not remove it, with the reason."""
    failed: dict[str, str] = {}

    async def remove(store: ObjectStore) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await store.delete([set_key(group, set_id), page_key(group, set_id)])
        except (RecoveryError, TimeoutError) as error:
            failed[store.name] = _words(error)

    await for_each(stores, remove, max(len(stores), 1))
    return failed


def _read(body: bytes, verifier: Verifier, group: str, key: str) -> RecoverySet:
    payload = verifier.verify(body).payload
    if payload.get("format") != FORMAT:
        raise Corrupt(f"its format is {payload.get('format')!r}; this version reads format {FORMAT}: use a newer one")
    try:
        found = RecoverySet.model_validate(payload)
    except ValidationError as error:
        raise Corrupt(f"it is no recovery set: {error.error_count()} fields are missing or wrong") from error
    if key != set_key(group, found.set_id) or found.group != group:
        raise Corrupt(f"it belongs to {set_key(found.group, found.set_id)}")
    return found


def _words(error: BaseException) -> str:
    return str(error) or f"no answer within {REQUEST_SECONDS:.0f} s"

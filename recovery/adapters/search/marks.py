"""What an incomplete restore made is known by its mark, and removed by nothing else.

The mark is an index setting that allocation reads and that excludes no node: ``index.routing.allocation.exclude`` of an
attribute that none has. It comes into being with the index, in the same change of the cluster's state, so whatever an
interrupted attempt left behind is known by it, on both products. A completed restore's mark says so and stays: an
attempt whose end nobody heard of is known by it when it is repeated, and what applications wrote since is kept.
"""

from __future__ import annotations

from collections.abc import Collection

from recovery.adapters.search.connection import SearchConnection, batches
from recovery.adapters.search.contents import Names, names, with_setting
from recovery.errors import NotOurs

MARK = "index.routing.allocation.exclude.recovery_restore"
VALIDATION = "validation-"
"""How the ids of validations' restores begin, ``validation-<moment>-<nonce>``, and the names of their copies,
``validation-<nonce>-<index>``: nobody's data."""
NAMED = 10  # names that an error lists
DELETE_SECONDS = 120.0


async def marks(connection: SearchConnection) -> dict[str, list[str]]:
    """Ids of restores that are not completed -> their indices."""
    found: dict[str, list[str]] = {}
    completed = set()
    for index, mark in sorted((await with_setting(connection, MARK)).items()):
        restore_id, colon, _ = mark.partition(":")
        found.setdefault(restore_id, []).append(index)
        if colon:
            completed.add(restore_id)
    return {restore_id: indices for restore_id, indices in found.items() if restore_id not in completed}


async def carrying(connection: SearchConnection, restore_id: str) -> dict[str, bool]:
    """Indices with a restore's mark, and whether it says that the restore is complete."""
    known = {restore_id: False, _completed_mark(restore_id): True}
    return {index: known[mark] for index, mark in (await with_setting(connection, MARK)).items() if mark in known}


async def copies_excluded(connection: SearchConnection, patterns: Collection[str]) -> list[str]:
    """``patterns`` without the copies of validations. A hyphen excludes behind a pattern with a wildcard only, and an
    exclusion without one fails where the index is gone meanwhile."""
    if not any("*" in pattern for pattern in patterns):
        return list(patterns)
    nonces = [each.rpartition("-")[2] for each in sorted(await marks(connection)) if each.startswith(VALIDATION)]
    return [*patterns, *(f"-{begin}{VALIDATION}{nonce}-*" for nonce in nonces for begin in ("", ".ds-"))]


async def mark_completed(connection: SearchConnection, restore_id: str, indices: Collection[str]) -> None:
    """A restore is complete as soon as one of its indices says so: they are many requests."""
    for part in batches(indices):
        await connection.ask("PUT", f"/{part}/_settings", {MARK: _completed_mark(restore_id)}, expand_wildcards="all")


def _completed_mark(restore_id: str) -> str:
    """No id has a colon."""
    return f"{restore_id}:done"


async def remove_marked(connection: SearchConnection, restore_id: str) -> list[str]:
    """Deletes what an incomplete restore made; that also ends one that runs. Raises NotOurs once it went live."""
    known = await carrying(connection, restore_id)
    made = [index for index, completed in known.items() if not completed]
    if not made:
        return []
    if len(made) < len(known):
        raise NotOurs(f"Restore {restore_id} was completed at {connection.name}, and nothing of it is deleted.")
    found = await names(connection)
    live = sorted(alias for alias, indices in found.aliases.items() if set(indices) & set(made))
    if live:
        raise NotOurs(
            f"Restore {restore_id} was completed at {connection.name}: the aliases {some(live)} point to its indices"
            " already. Move them before its indices are deleted."
        )
    streams = [name for name, indices in found.data_streams.items() if indices and set(indices) <= set(made)]
    inside = {index for name in streams for index in found.data_streams[name]}
    gone = sorted([*streams, *(index for index in made if index not in inside)])
    await delete_named(connection, found, gone)
    return gone


async def delete_named(connection: SearchConnection, found: Names, gone: Collection[str]) -> None:
    """Indices and data streams; what is gone already is no error."""
    streams = [name for name in gone if name in found.data_streams]
    indices = [name for name in gone if name not in found.data_streams]
    for part in batches(streams):
        await connection.found("DELETE", f"/_data_stream/{part}", seconds=DELETE_SECONDS)
    for part in batches(indices):
        await connection.found("DELETE", f"/{part}", seconds=DELETE_SECONDS, ignore_unavailable=True)


def some(found: Collection[str]) -> str:
    """The first names, for a sentence."""
    listed = sorted(found)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more

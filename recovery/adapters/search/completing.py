"""The end of a restore: what is there is held against what was taken, and gets the aliases of the source."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from recovery.adapters.search.connection import SearchConnection, ServerSaid, judged
from recovery.adapters.search.contents import contents, names
from recovery.adapters.search.marks import carrying, mark_completed, some
from recovery.domain.search import SearchSource, alias_actions
from recovery.errors import RestoreFailed


@dataclass(frozen=True)
class Compared:
    """``docs`` of the restored indices, sentences on what they lack, and notes on what could not be compared."""

    docs: int = 0
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def compare(connection: SearchConnection, source: SearchSource, restored: Mapping[str, str]) -> Compared:
    """``restored``: name at the source -> name here."""
    parts = {part.index: part for part in source.indices}
    found = await contents(connection, sorted(restored.values()))
    differences: list[str] = []
    docs, written = 0, []
    for name, target in sorted(restored.items()):
        part = parts[name]
        if target in found:
            docs += found[target].docs
            differences += part.differences(found[target].docs, found[target].positions)
            if part.is_passed_by(found[target].positions):
                written.append(target)
        elif part.positions:
            differences.append(f"{target} is closed, or not there")
    return Compared(
        docs,
        differences,
        not_compared(source, restored) + ([f"written to already: {some(written)}"] if written else []),
    )


def not_compared(source: SearchSource, restored: Mapping[str, str]) -> list[str]:
    """Notes."""
    unknown = [restored[name] for name in source.not_comparable(restored)]
    if not unknown:
        return []
    why = "they were closed or new when taken, or an earlier attempt had begun that"
    return [f"not compared, for {why}: {some(unknown)}"]


def aliases_of(source: SearchSource, chosen: Collection[str]) -> dict[str, set[str]]:
    """Alias of a chosen index -> the source's indices that had it, chosen or not."""
    found: dict[str, set[str]] = {}
    for part in source.indices:
        for alias in part.aliases:
            found.setdefault(alias, set()).add(part.index)
    return {alias: holders for alias, holders in found.items() if holders & set(chosen)}


async def move_aliases(
    connection: SearchConnection, source: SearchSource, restored: Mapping[str, str]
) -> tuple[dict[str, list[str]], list[str]]:
    """In one request: nobody ever sees an alias without an index, or with the old and the new one. Returns alias ->
    indices that it left, and notes.

    Where all indices that had an alias at the source are restored, it then points to these and nothing else. Where only
    some are, it leaves only the indices that they stand in for.
    """
    holders = (await names(connection)).aliases
    leave: dict[str, list[str]] = {}
    notes = []
    targets = set(restored.values())
    for alias, had in aliases_of(source, restored).items():
        others = [index for index in holders.get(alias, ()) if index not in targets]
        going = others if had <= restored.keys() else [index for index in others if index in restored]
        leave[alias] = going
        if staying := sorted(set(others) - set(going)):
            notes.append(f"alias {alias} stays on {some(staying)} too")
    wanted = {part.index: part.aliases for part in source.indices if part.index in restored}
    actions = alias_actions(restored, wanted, leave)
    if actions:
        try:
            await connection.ask("POST", "/_aliases", {"actions": actions})
        except ServerSaid as error:
            what = f"The indices of {source.snapshot} are restored at {connection.name}, their aliases not"
            raise judged(error, what, RestoreFailed) from error
    return {alias: sorted(indices) for alias, indices in leave.items() if indices}, notes


async def complete(
    connection: SearchConnection, source: SearchSource, restored: Mapping[str, str], restore_id: str, *, aliases: bool
) -> list[str]:
    """Aliases first, then the mark goes: an attempt that ended between the two does both again."""
    known = await carrying(connection, restore_id)
    if any(known.values()):
        return []
    if gone := set(restored.values()) - known.keys():
        raise RestoreFailed(
            f"What was restored is gone from {connection.name}, or carries no mark of restore {restore_id}:"
            f" {some(gone)}."
        )
    _, notes = await move_aliases(connection, source, restored) if aliases else ({}, [])
    await mark_completed(connection, restore_id, list(restored.values()))
    return notes

"""Everything that locations hold, rebuilt from their objects alone: for the day on which nothing else is left."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from recovery.adapters.wal_status import ArchivedWal, archived_wal
from recovery.backup.bounded import for_each
from recovery.backup.catalogue import REQUEST_SECONDS, Catalogue
from recovery.backup.copies import Copies, copies_of
from recovery.backup.layout import is_safe
from recovery.backup.sets import SETS
from recovery.backup.signing import Verifier
from recovery.backup.survey import Survey
from recovery.backup.wal.layout import STORE as WAL
from recovery.domain.recovery_point import DataStore
from recovery.errors import NotFound, RecoveryError, Refused, Unreachable
from recovery.ports.object_store import ObjectStore
from recovery.ports.recovery_points import ListedSets

FOLDERS = frozenset({*(store.value for store in DataStore), SETS, WAL})
"""What a group has below its own folder."""

PARALLEL_FOLDERS = 8
GROUPS_AT_ONCE = 2


@dataclass(frozen=True)
class GroupInventory:
    """``others``: by location, folders of the group that this version writes nothing into."""

    group: str
    survey: Survey = field(default_factory=Survey)
    copies: Copies = field(default_factory=dict)
    sets: ListedSets = field(default_factory=ListedSets)
    wal: ArchivedWal = field(default_factory=ArchivedWal)
    others: dict[str, list[str]] = field(default_factory=dict)

    @property
    def unreachable(self) -> dict[str, str]:
        """Locations that stopped answering for this group, with the reason."""
        return {**self.sets.unreachable, **self.survey.unreachable}


@dataclass(frozen=True)
class Inventory:
    """``unreachable``: locations that did not answer at all. ``others``: by location, folders that are no group's."""

    groups: list[GroupInventory]
    unreachable: dict[str, str] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)


async def inventory(
    stores: Sequence[ObjectStore],
    verifier: Verifier,
    *,
    named: Mapping[str, Sequence[str]] | None = None,
    only: str | None = None,
    replicating: Collection[str] = (),
) -> Inventory:
    """All groups that any location has something of. Only what somebody trusted has signed counts.

    Args:
        named: groups that are listed even where nothing is found of them, each with the locations that its points are
            to be at; those of others are to be at all.
        only: this group and no other.
        replicating: locations whose bucket is to replicate by itself.

    Raises:
        Unreachable: no location answers.
        NotFound: nothing is found of ``only``, and it is not among ``named``.
    """
    named = named or {}
    folders: dict[str, dict[str, list[str]]] = {}  # by location, by folder
    unreachable: dict[str, str] = {}

    async def look(store: ObjectStore) -> None:
        try:
            folders[store.name] = await _folders(store)
        except (RecoveryError, TimeoutError) as error:
            unreachable[store.name] = str(error) or f"no answer within {REQUEST_SECONDS:.0f} s"

    await for_each(stores, look, max(len(stores), 1))
    answering = [store for store in stores if store.name in folders]
    if not answering:
        raise Unreachable(f"no location answers. {'; '.join(f'{name}: {why}' for name, why in unreachable.items())}")
    found = sorted({name for there in folders.values() for name, below in there.items() if FOLDERS & set(below)})

    async def one(group: str) -> GroupInventory:
        others = {
            location: sorted(set(there.get(group, ())) - FOLDERS)
            for location, there in folders.items()
            if set(there.get(group, ())) - FOLDERS
        }
        listed = await _group(answering, verifier, group, others)
        expected = named.get(group, [store.name for store in stores])
        survey = replace(listed.survey, unreachable={**unreachable, **listed.survey.unreachable})
        return replace(listed, copies=await copies_of(answering, survey, expected, replicating))

    wanted = sorted({*found, *named})
    if only is not None:
        if only not in wanted:
            raise NotFound(f"no location has anything of a group {only!r}. There are {', '.join(wanted) or 'none'}")
        wanted = [only]
    listed = await for_each(wanted, one, GROUPS_AT_ONCE)
    foreign = {location: [name for name in sorted(there) if name not in found] for location, there in folders.items()}
    return Inventory(listed, unreachable, {location: names for location, names in foreign.items() if names})


async def _folders(store: ObjectStore) -> dict[str, list[str]]:
    """The folders of a location, each with those directly below it; of names that no group has, without.

    Of one that is too large to be listed, only those of ours that have folders themselves.
    """
    async with asyncio.timeout(REQUEST_SECONDS):
        names = list(await store.folders(""))

    async def below(name: str) -> list[str]:
        if not is_safe(name):
            return []
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return list(await store.folders(f"{name}/"))
        except Refused:
            return []  # somebody else's, beside ours
        except TimeoutError:  # a silent location, or somebody else's folder with very many objects in it
            async with asyncio.timeout(REQUEST_SECONDS):
                return await ours(name)

    async def ours(name: str) -> list[str]:
        async def has(each: str) -> bool:
            return bool(await store.folders(f"{name}/{each}/"))

        known = sorted(FOLDERS)
        there = await for_each(known, has, len(known))
        return [each for each, is_there in zip(known, there, strict=True) if is_there]

    return dict(zip(names, await for_each(names, below, PARALLEL_FOLDERS), strict=True))


async def _group(
    stores: Sequence[ObjectStore], verifier: Verifier, group: str, others: dict[str, list[str]]
) -> GroupInventory:
    catalogue = Catalogue(stores, verifier)
    try:
        survey = await catalogue.survey(group)
        sets = await catalogue.sets(group)
        wal = await archived_wal(stores, group, verifier, survey.points)
    except Unreachable as error:  # of this group alone: the others are listed
        return GroupInventory(group, Survey(unreachable={store.name: str(error) for store in stores}), others=others)
    return GroupInventory(group, survey, sets=sets, wal=wal, others=others)

"""Which recovery points exist, where, and what validation said about them.

Everything is read from the locations themselves: there is no other index that could be lost. Only documents with a
trusted signature count; what is not believed is reported as rejected, never silently hidden.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from recovery.backup.bounded import for_each
from recovery.backup.documents import SignedManifest, read_manifest, read_verdict, sign_verdict
from recovery.backup.layout import (
    attempt_prefixes,
    is_safe,
    manifest_key,
    point_prefix,
    points_prefix,
    verdict_key,
    verdicts_prefix,
)
from recovery.backup.leftovers import delete_prefix, existing_manifest, remove_leftovers
from recovery.backup.once import put_once
from recovery.backup.sets import list_sets, remove_set
from recovery.backup.signing import Signer, Verifier
from recovery.backup.survey import Orphan, Rejected, Survey
from recovery.domain.chains import is_recoverable, judged_as_chains, missing_bases, standing
from recovery.domain.point_order import newest_first
from recovery.domain.recovery_point import BackupKind, DataStore, RecoveryPoint, Verdict, VerdictState, store_of
from recovery.errors import Corrupt, NotFound, RecoveryError, Refused, Unreachable, WrongKey
from recovery.ports.object_store import ObjectStore
from recovery.ports.recovery_points import ListedSets

PARALLEL_READS = 8
REQUEST_SECONDS = 10.0  # for one small request


@dataclass(frozen=True)
class _Found:
    """One point at one location."""

    location: str
    signed: SignedManifest
    verdicts: list[Verdict]


Answer = TypeVar("Answer")
Reply = TypeVar("Reply")
_Question = Callable[[ObjectStore, list[Rejected]], Awaitable[list[Answer]]]


class Catalogue:
    """The recovery points of all groups at ``stores``."""

    def __init__(self, stores: Sequence[ObjectStore], verifier: Verifier) -> None:
        self._stores = {store.name: store for store in stores}
        self._verifier = verifier

    def stores_of(self, point: RecoveryPoint) -> list[ObjectStore]:
        """The locations that hold the point, those to be preferred first."""
        return [self._stores[name] for name in point.locations if name in self._stores]

    async def survey(self, group: str, since: datetime | None = None) -> Survey:
        """Points (newest first), rejected documents and unreachable locations.

        Args:
            since: only points finished at or after this.

        Raises:
            Unreachable: no location answers.
        """
        unfinished: dict[str, list[str]] = {}
        foreign: list[Rejected] = []
        question = partial(self._points_at, group, unfinished, foreign)
        found, rejected, unreachable = await self._ask_locations(question)
        points = judged_as_chains(_merge(found, rejected))
        known = {point.point_id for point in points}
        lacking = {point.point_id: missing for point in points if (missing := missing_bases(point, known))}
        points = [point for point in points if since is None or point.manifest.finished_at >= since]
        return Survey(newest_first(points), rejected, unreachable, unfinished, foreign, lacking)

    async def points(self, group: str, since: datetime | None = None) -> list[RecoveryPoint]:
        """Only the points of ``survey``."""
        return (await self.survey(group, since)).points

    async def point(self, group: str, point_id: str) -> RecoveryPoint:
        """Raises NotFound with the known points, Corrupt or WrongKey when it is there and not believed."""

        async def ask(store: ObjectStore, rejected: list[Rejected]) -> list[_Found]:
            return [found for found in [await self._point_at(group, store, rejected, point_id)] if found]

        found, rejected, unreachable = await self._ask_locations(ask)
        merged = _merge(found, rejected)
        if merged:
            return merged[0]
        if rejected:
            reasons = "; ".join(f"{entry.location}: {entry.reason}" for entry in rejected)
            raise Corrupt(f"recovery point {point_id} is not believed. {reasons}")
        known = ", ".join(point.point_id for point in (await self.points(group))[:10]) or "none"
        silent = f" Locations that did not answer: {', '.join(unreachable)}." if unreachable else ""
        raise NotFound(f"group {group} has no recovery point {point_id}. Known, newest first: {known}.{silent}")

    async def newest_validated(self, group: str, kind: BackupKind | None = None) -> RecoveryPoint:
        """The newest point whose newest verdict is VALID, and whose bases are there.

        Raises:
            NotFound: there is none; it is said what there is instead.
        """
        survey = await self.survey(group)
        candidates = [point for point in survey.points if kind is None or point.manifest.kind is kind]
        known = {point.point_id for point in survey.points}
        for point in candidates:
            if is_recoverable(point, known):
                return point
        wanted = f"{kind.value} " if kind else ""
        states = [f"{point.point_id} ({standing(point, known)})" for point in candidates[:5]]
        there = f"There are {', '.join(states)}" if states else "There are no such points at all"
        extra = f"; {len(survey.rejected)} documents were rejected" if survey.rejected else ""
        silent = f"; no answer from {', '.join(survey.unreachable)}" if survey.unreachable else ""
        raise NotFound(f"group {group} has no validated {wanted}recovery point. {there}{extra}{silent}.")

    async def stored_at(self, points: Sequence[RecoveryPoint]) -> dict[str, datetime]:
        """By point id, when the first of its locations stored its manifest, by that location's own clock.

        A point whose locations do not answer is left out. Raises Unreachable: no location answers.
        """

        async def ask(store: ObjectStore, rejected: list[Rejected]) -> list[tuple[str, datetime]]:
            async def look(point: RecoveryPoint) -> list[tuple[str, datetime]]:
                info = await _answered(store, store.head(manifest_key(point.manifest.group, point.point_id)))
                return [] if info is None else [(point.point_id, info.modified)]

            held = [point for point in points if store.name in point.locations]
            return [each for found in await for_each(held, look, PARALLEL_READS) for each in found]

        found, _, _ = await self._ask_locations(ask)
        times: dict[str, datetime] = {}
        for point_id, modified in found:
            times[point_id] = min(modified, times.get(point_id, modified))
        return times

    async def sets(self, group: str) -> ListedSets:
        """The group's recovery sets, newest first. Raises Unreachable: no location answers."""
        return await list_sets(list(self._stores.values()), self._verifier, group)

    async def remove_set(self, group: str, set_id: str) -> dict[str, str]:
        """Idempotent. Returns the locations that did not remove it, with the reason."""
        return await remove_set(list(self._stores.values()), group, set_id)

    async def write_verdict(self, verdict: Verdict, signer: Signer) -> list[str]:
        """Stores the verdict at every location that holds the point; returns the names of those that took it.

        It judges one location's objects, and through the manifest's SHA-256 the point itself: so it is kept everywhere,
        and survives the location at which the validation read.

        Raises:
            NotFound: no location holds the point any more.
            Unreachable: no location took it, and some did not answer.
        """
        body = sign_verdict(verdict, signer)

        async def put(store: ObjectStore, rejected: list[Rejected]) -> list[str]:
            if await _answered(store, existing_manifest(store, verdict.group, verdict.point_id)) is None:
                return []
            await _answered(store, put_once(store, verdict_key(verdict), body))
            return [store.name]

        taken, _, unreachable = await self._ask_locations(put)
        if not taken and unreachable:
            raise Unreachable(f"no location took the verdict on {verdict.point_id}. {'; '.join(unreachable.values())}")
        if not taken:
            raise NotFound(f"no location holds recovery point {verdict.point_id} any more: the verdict was not stored")
        return sorted(taken)

    async def delete_point(self, group: str, point_id: str) -> None:
        """Deletes a point everywhere: the manifest first, so that it ceases to exist before its objects do. Idempotent.

        Raises:
            Unreachable: a location did not answer; delete it again later.
        """

        async def delete(store: ObjectStore, rejected: list[Rejected]) -> list[None]:
            await _answered(store, store.delete([manifest_key(group, point_id)]))
            await delete_prefix(store, point_prefix(group, point_id))
            return []

        _, _, unreachable = await self._ask_locations(delete)
        if unreachable:
            raise Unreachable(f"{point_id} is not deleted everywhere. {'; '.join(unreachable.values())}")

    async def orphans(self, group: str) -> list[Orphan]:
        """What unfinished backups left: objects that no manifest names. Objects of a point whose manifest is there and
        not believed are none: a person has to look at those.

        Raises:
            Unreachable: no location answers.
        """
        found, _, _ = await self._ask_locations(partial(self._orphans_at, group))
        return sorted(found, key=lambda orphan: (orphan.location, orphan.folder))

    async def remove_orphans(
        self, group: str, older_than: datetime, running: Collection[str] = ()
    ) -> tuple[list[Orphan], dict[str, str]]:
        """Removes orphans whose youngest object is older than ``older_than``.

        Args:
            running: ids of points that are being written or filled now, which are left alone.

        Returns:
            What was removed, and the locations that failed with the reason.
        """
        removed = []
        failed: dict[str, str] = {}
        for orphan in await self.orphans(group):
            if orphan.youngest >= older_than or orphan.point_id in running:
                continue
            try:
                await self._remove_orphan(group, orphan)
                removed.append(orphan)
            except RecoveryError as error:
                failed[orphan.location] = str(error)
        return removed, failed

    async def _remove_orphan(self, group: str, orphan: Orphan) -> None:
        store = self._stores[orphan.location]
        failures = await remove_leftovers([store], group, orphan.point_id)  # looks for a manifest again
        if failures:
            raise failures[store.name]

    async def _points_at(
        self,
        group: str,
        unfinished: dict[str, list[str]],
        foreign: list[Rejected],
        store: ObjectStore,
        rejected: list[Rejected],
    ) -> list[_Found]:
        ids, others = await _point_ids(group, store)
        found = await for_each(ids, partial(self._point_at, group, store, rejected), PARALLEL_READS)
        bad = {entry.point_id for entry in rejected if entry.location == store.name}
        for point_id, entry in zip(ids, found, strict=True):
            if entry is None and point_id not in bad:
                unfinished.setdefault(point_id, []).append(store.name)
        foreign += others
        return [entry for entry in found if entry is not None]

    async def _point_at(self, group: str, store: ObjectStore, rejected: list[Rejected], point_id: str) -> _Found | None:
        body = await _answered(store, existing_manifest(store, group, point_id))
        if body is None:
            return None
        try:
            signed = read_manifest(body, self._verifier, group=group, point_id=point_id)
        except (Corrupt, WrongKey) as error:
            rejected.append(Rejected(point_id, store.name, manifest_key(group, point_id), f"manifest: {error}"))
            return None
        return _Found(store.name, signed, await self._verdicts_at(store, signed, rejected))

    async def _verdicts_at(self, store: ObjectStore, signed: SignedManifest, rejected: list[Rejected]) -> list[Verdict]:
        group, point_id = signed.manifest.group, signed.manifest.point_id
        verdicts = []
        for key in await _answered(store, _keys(store, verdicts_prefix(group, point_id))):
            try:
                body, _ = await _answered(store, store.get(key))
                verdict = read_verdict(body, self._verifier, group=group, point_id=point_id)
                if verdict.manifest_sha256 != signed.digest:
                    raise Corrupt("it judges another manifest than the one that is here")
                verdicts.append(verdict)
            except NotFound:
                continue  # retention removed the point meanwhile
            except (Corrupt, WrongKey) as error:
                rejected.append(Rejected(point_id, store.name, key, f"verdict: {error}"))
        return verdicts

    async def _orphans_at(self, group: str, store: ObjectStore, rejected: list[Rejected]) -> list[Orphan]:
        orphans: list[Orphan] = []
        for point_id in (await _point_ids(group, store))[0]:
            prefix = point_prefix(group, point_id)
            body = await _answered(store, existing_manifest(store, group, point_id))
            named = {f"{prefix}verdicts/"}
            if body is not None:
                try:
                    signed = read_manifest(body, self._verifier, group=group, point_id=point_id)
                except (Corrupt, WrongKey):
                    continue
                named |= attempt_prefixes(signed.manifest)
            for folder in await _answered(store, store.folders(prefix)):
                if f"{prefix}{folder}/" not in named:
                    orphans.append(await _measure(store, point_id, f"{prefix}{folder}/"))
        return orphans

    async def _ask_locations(self, question: _Question[Answer]) -> tuple[list[Answer], list[Rejected], dict[str, str]]:
        """The same question to all locations at once; those that do not answer are named instead of raised."""
        rejected: list[Rejected] = []
        answers: list[Answer] = []
        unreachable: dict[str, str] = {}

        async def ask(store: ObjectStore) -> None:
            try:
                answers.extend(await question(store, rejected))
            except (Unreachable, Refused, NotFound) as error:
                unreachable[store.name] = str(error)

        await for_each(self._stores.values(), ask, max(len(self._stores), 1))
        if unreachable and len(unreachable) == len(self._stores):
            raise Unreachable(f"no backup location answers. {'; '.join(unreachable.values())}")
        return answers, rejected, unreachable


def _merge(found: list[_Found], rejected: list[Rejected]) -> list[RecoveryPoint]:
    """One entry per point id. Where two locations hold different manifests under one id, the first location counts."""
    by_id: dict[str, list[_Found]] = {}
    for entry in sorted(found, key=lambda entry: entry.location):
        same = by_id.setdefault(entry.signed.manifest.point_id, [])
        if same and same[0].signed.digest != entry.signed.digest:
            manifest = entry.signed.manifest
            key = manifest_key(manifest.group, manifest.point_id)
            reason = f"manifest: differs from the one of the same id at {same[0].location}"
            rejected.append(Rejected(manifest.point_id, entry.location, key, reason))
            continue
        same.append(entry)
    return [_point(entries) for entries in by_id.values()]


def _point(entries: list[_Found]) -> RecoveryPoint:
    verdicts = sorted(
        (verdict for entry in entries for verdict in entry.verdicts), key=lambda verdict: verdict.validated_at
    )
    newest_at = {verdict.location: verdict.state for verdict in verdicts}
    locations = sorted(entry.location for entry in entries)
    locations.sort(key=lambda name: newest_at.get(name) is VerdictState.CORRUPT)
    signed, damaged = entries[0].signed, _damaged(verdicts)
    return RecoveryPoint(
        manifest=signed.manifest,
        verdict=_counting(verdicts),
        locations=locations,
        manifest_sha256=signed.digest,
        damaged_at=[name for name in locations if name in damaged],
    )


def _damaged(verdicts: list[Verdict]) -> set[str]:
    """By verdicts, the oldest first. One that is VALID speaks for each copy that it read, as its checks are called."""
    damaged: set[str] = set()
    for verdict in verdicts:
        if verdict.state is VerdictState.CORRUPT:
            damaged.add(verdict.location)
        elif verdict.state is VerdictState.VALID:
            read = {verdict.location, *(check.name.partition(": ")[0] for check in verdict.checks)}
            damaged -= read
    return damaged


def _counting(verdicts: list[Verdict]) -> Verdict | None:
    """The newest verdict. FAILED says that the validation could not judge, so it takes nothing back that one that
    could had found out before: else a validator without disk space would leave nothing to recover from."""
    judging = [verdict for verdict in verdicts if verdict.state is not VerdictState.FAILED]
    newest = (judging or verdicts)[-1:]
    return newest[0] if newest else None


async def _point_ids(group: str, location: ObjectStore) -> tuple[list[str], list[Rejected]]:
    """Of all stores of the group; and folders that are none: no point has such a name, or it is of another store."""

    async def of(store: DataStore) -> list[tuple[DataStore, str]]:
        names = await _answered(location, location.folders(points_prefix(group, store)))
        return [(store, name) for name in names]

    named = [each for names in await for_each(DataStore, of, len(DataStore)) for each in names]
    ids = [name for store, name in named if is_safe(name) and store_of(name) == store]
    foreign = [
        Rejected(name, location.name, f"{points_prefix(group, store)}{name}/", "it is no recovery point's folder")
        for store, name in named
        if not is_safe(name) or store_of(name) != store
    ]
    return ids, foreign


async def _measure(store: ObjectStore, point_id: str, folder: str) -> Orphan:
    count = size = 0
    youngest = datetime.fromtimestamp(0, UTC)
    async for info in store.list(folder):
        count, size, youngest = count + 1, size + info.size, max(youngest, info.modified)
    return Orphan(point_id, store.name, folder, count, size, youngest)


async def _keys(store: ObjectStore, prefix: str) -> list[str]:
    return [info.key async for info in store.list(prefix)]


async def _answered(store: ObjectStore, request: Awaitable[Reply]) -> Reply:
    """A location that hangs counts as unreachable soon: on the worst day one of them is frozen."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await request
    except TimeoutError as error:
        raise Unreachable(f"{store.name} did not answer within {REQUEST_SECONDS:.0f} s") from error
